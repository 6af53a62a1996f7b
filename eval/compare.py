"""Differences between runs: picture by picture where both are on disk, else by their reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.comparable import same_methods
from eval.run_data import RunData
from eval.spread import power_at
from eval.stats import (
    Difference,
    Estimate,
    Summary,
    independent_difference,
    paired_difference,
)
from eval.units import units_of_samples

__all__ = [
    "Change",
    "Comparison",
    "Gate",
    "GateTest",
    "NothingInCommonError",
    "compare_reports",
    "compare_runs",
    "failures",
]

_PAIR = ("identity_id", "prompt_id", "style", "seed", "prompt", "given")
# False alarms of a whole gate. `GateTest.seen` is what nine losses in ten would fail at if the
# spread were known; it is estimated, and four in five do (`python -m benchmarks.run coverage`).
_ALARMS, _POWER = 0.05, 0.9
# Scores are float32: less than this is rounding.
_ROUNDING = 1e-6


class NothingInCommonError(ValueError):
    """The runs share no method or no metric."""


@dataclass(frozen=True, slots=True)
class Comparison(Estimate):
    """One metric of one method in two runs: the estimate is of after - before.

    Attributes:
        method: in the first run, and in the second where its name differs: "a -> b".
        metric: name.
        higher_is_better: None: neither.
        before, after: means over the pairs; NaN where there is none.
        unpaired: the second run's pictures without a usable counterpart.
        paired: whether pictures were compared one by one.
    """

    method: str
    metric: str
    higher_is_better: bool | None
    before: float
    after: float
    unpaired: int
    paired: bool

    @classmethod
    def of(
        cls,
        method: str,
        metric: str,
        higher_is_better: bool | None,
        before: float,
        after: float,
        change: Difference,
        *,
        paired: bool = True,
    ) -> Comparison:
        """From the difference of the two runs."""
        own = {name: getattr(change, name) for name in Estimate.__dataclass_fields__}
        return cls(
            **own,
            method=method,
            metric=metric,
            higher_is_better=higher_is_better,
            before=before,
            after=after,
            unpaired=change.unpaired,
            paired=paired,
        )


@dataclass(frozen=True, slots=True)
class GateTest:
    """What the gate asked of one metric of one method.

    Attributes:
        margin: loss that is allowed.
        loss: found, in the metric's own direction; negative: it rose.
        at_least: the loss is this much or more, wrong at most once in twenty over all tests.
        seen: a loss of this much would fail four times in five; NaN where pairs do not vary.
        fell: whether `at_least` is above the margin.
    """

    method: str
    metric: str
    margin: float
    loss: float
    at_least: float
    seen: float
    fell: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict: it passes where nothing has fallen.

    Attributes:
        fallen: one sentence for each reason not to pass.
        tests: one a method and metric with a margin.
    """

    fallen: list[str]
    tests: list[GateTest]


@dataclass(frozen=True, slots=True)
class Change:
    """One picture that got better or worse: its request, its value in both runs."""

    method: str
    metric: str
    identity_id: str
    prompt_id: str
    style: str
    seed: int
    before: float
    after: float
    sample_ids: tuple[str, str]


def compare_runs(
    first: RunData, second: RunData, *, metrics: Sequence[str] | None = None, most: int = 5
) -> tuple[list[Comparison], dict[str, tuple[list[Change], list[Change]]]]:
    """Compares two runs over equal requests: same method, person, prompt, style and seed, the same
    picture to begin with and the same control.

    Runs of one method each are compared whatever their methods are called.

    Args:
        first, second: of `read_run`.
        metrics: names; None for all that both have.
        most: pictures listed at each end.

    Returns:
        One entry a method and metric; metric -> (most improved, most worsened) pictures.

    Raises:
        ValueError: no metric or no method in common, or an unknown metric.
    """
    shared = [name for name in first.scores if name in second.scores]
    names = list(metrics) if metrics else shared
    for name in names:
        if name not in shared:
            raise ValueError(
                f"metric is {name!r}, allowed: {', '.join(shared) or 'none in common'}"
            )
    if not names:
        raise NothingInCommonError("the runs have no metric in common, allowed: at least one")
    rows: list[Comparison] = []
    changes: dict[str, tuple[list[Change], list[Change]]] = {}
    found: dict[str, list[Change]] = {name: [] for name in names}
    for before, after in _methods(first, second):
        ours = np.flatnonzero(second.samples["method"] == after)
        partner = _partners(first, second, before, ours)
        label = after if before == after else f"{before} -> {after}"
        people = second.samples["person"][ours].astype(str)
        units = units_of_samples(second.samples, ours)
        pictures = np.stack(
            [first.samples["picture"][partner], second.samples["picture"][ours]], axis=1
        )
        for name in names:
            new = second.scores[name][ours]
            old = np.where(partner >= 0, first.scores[name][partner], np.nan)
            better = second.metrics[name].higher_is_better
            both = ~np.isnan(new - old)
            result = paired_difference(
                new,
                old,
                people,
                units,
                pictures=pictures,
                rate=second.metrics[name].unit == "share",
            )
            was, now = (float(s[both].mean()) if both.any() else math.nan for s in (old, new))
            rows.append(Comparison.of(label, name, better, was, now, result))
            if better is not None:
                found[name] += [
                    _change(first, second, label, name, int(partner[n]), int(ours[n]))
                    for n in np.flatnonzero(both)
                ]
    for name, every in found.items():
        sign = 1 if second.metrics[name].higher_is_better else -1
        rising = sorted(every, key=lambda one: sign * (one.after - one.before))
        worse = [one for one in rising if sign * (one.after - one.before) < 0][:most]
        gains = [one for one in reversed(rising) if sign * (one.after - one.before) > 0][:most]
        if every:
            changes[name] = (gains, worse)
    return rows, changes


def _methods(first: RunData, second: RunData) -> list[tuple[str, str]]:
    old, new = first.names("method"), second.names("method")
    shared = same_methods(old, new)
    if not shared:
        raise NothingInCommonError(
            f"the runs have the methods {', '.join(old)} and {', '.join(new)}, allowed: at least "
            "one in common, or one each"
        )
    return shared


def _partners(
    first: RunData, second: RunData, method: str, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Row of the first run for each of `rows` of the second; -1 where there is none."""
    own = np.flatnonzero(first.samples["method"] == method)
    keys = zip(*(first.samples[name][own].tolist() for name in _PAIR), strict=True)
    where = dict(zip(keys, own.tolist(), strict=True))
    wanted = zip(*(second.samples[name][rows].tolist() for name in _PAIR), strict=True)
    return np.array([where.get(key, -1) for key in wanted], dtype=np.int64)


def _change(
    first: RunData, second: RunData, method: str, metric: str, old: int, new: int
) -> Change:
    key = {name: second.samples[name][new] for name in _PAIR}
    return Change(
        method,
        metric,
        str(key["identity_id"]),
        str(key["prompt_id"]),
        str(key["style"]),
        int(key["seed"]),
        float(first.scores[metric][old]),
        float(second.scores[metric][new]),
        (str(first.samples["sample_id"][old]), str(second.samples["sample_id"][new])),
    )


def compare_reports(
    first: Mapping[str, Any], second: Mapping[str, Any], *, metrics: Sequence[str] | None = None
) -> list[Comparison]:
    """Compares two `report.json`: means of all pictures, intervals as of independent runs.

    For runs of which only the report is at hand (MLflow). Wider than `compare_runs`, which knows
    which picture belongs to which.

    Raises:
        ValueError: no method or no metric in common.
    """
    old = {row["method"]: row["cells"] for row in first["methods"]}
    new = {row["method"]: row["cells"] for row in second["methods"]}
    rows = []
    for method in (name for name in new if name in old):
        for name, after in new[method].items():
            before = old[method].get(name)
            if before is None or (metrics and name not in metrics):
                continue
            info = second["metrics"].get(name) or {}
            change = independent_difference(_summary(before), _summary(after))
            direction = info.get("higher_is_better")
            was, now = _float(before["mean"]), _float(after["mean"])
            rows.append(Comparison.of(method, name, direction, was, now, change, paired=False))
    if not rows:
        raise NothingInCommonError(
            "the reports have no method and metric in common, allowed: at least one"
        )
    return rows


def _summary(cell: Mapping[str, Any]) -> Summary:
    if "error" not in cell:
        raise ValueError(
            "a report is of an older version and has no standard errors, allowed: one made anew "
            "with `infinite-id report RUN`"
        )
    fields: dict[str, Any] = {
        name: cell[name] if name == "over" else _float(cell[name])
        for name in Summary.__dataclass_fields__
    }
    return Summary(**fields)


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def failures(rows: Sequence[Comparison], margins: Mapping[str, float]) -> Gate:
    """Tests for each method whether a metric fell by more than its margin.

    "Fell" is in the metric's own direction. What is tested is the one-sided interval of the loss:
    with losses that equal their margins, a gate of any number of tests fails at most once in
    twenty. A metric that cannot be tested has fallen.

    Args:
        rows: of `compare_runs` or `compare_reports`.
        margins: metric -> allowed loss, >= 0.

    Raises:
        ValueError: a metric that is not compared or has no direction, or a negative margin.
    """
    known = {row.metric: row.higher_is_better for row in rows}
    for name, margin in margins.items():
        if name not in known:
            raise ValueError(f"metric is {name!r}, allowed: {', '.join(known)}")
        if known[name] is None:
            raise ValueError(f"metric {name!r} has no direction, allowed: one that has")
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin of {name} is {margin}, allowed: 0 or more")
    asked = [row for row in rows if row.metric in margins]
    tests, fallen = [], []
    for row in asked:
        test = _test(row, margins[row.metric], _ALARMS / len(asked))
        tests.append(test)
        if math.isnan(test.loss):
            fallen.append(f"{row.method}: {row.metric} has no value to compare")
        elif math.isnan(test.at_least):
            fallen.append(
                f"{row.method}: {row.metric} cannot be tested: {row.n} pictures of "
                f"{row.identities} people carry no interval"
            )
        elif test.fell:
            fallen.append(
                f"{row.method}: {row.metric} fell by {test.loss:.4f} ({row.before:.4f} -> "
                f"{row.after:.4f}), by {test.at_least:.4f} or more with 95 % confidence, "
                f"allowed: {test.margin:g}"
            )
    return Gate(fallen, tests)


def _test(row: Comparison, margin: float, tail: float) -> GateTest:
    sign = 1 if row.higher_is_better else -1
    at_least = -row.gain_at_most(tail, sign)
    # Where no two pairs differ, how much they could is not known.
    seen = margin + row.error * power_at(_POWER, tail, row.df) if row.error > 0 else math.nan
    fell = at_least > margin + _ROUNDING
    return GateTest(row.method, row.metric, margin, -sign * row.mean, at_least, seen, fell)
