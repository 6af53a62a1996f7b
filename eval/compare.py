"""Differences between runs: picture by picture where both are on disk, else by their reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.run_data import RunData
from eval.stats import paired_difference

__all__ = ["Change", "Comparison", "compare_reports", "compare_runs", "failures"]

_PAIR = ("identity_id", "prompt_id", "style", "seed")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one method in two runs.

    Attributes:
        method: in the first run, and in the second where its name differs: "a -> b".
        metric: name.
        higher_is_better: None: neither.
        before, after: means over the pairs; NaN where there is none.
        mean: of after - before.
        low, high: 95 % interval of it over people; NaN where unknown.
        n: pairs of pictures, or pictures of the second run where they could not be paired.
        unpaired: the second run's pictures without a usable counterpart.
        paired: whether pictures were compared one by one.
    """

    method: str
    metric: str
    higher_is_better: bool | None
    before: float
    after: float
    mean: float
    low: float
    high: float
    n: int
    unpaired: int
    paired: bool


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
    """Compares two runs over equal requests: same method, person, prompt, style and seed.

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
        raise ValueError("the runs have no metric in common, allowed: at least one")
    rows: list[Comparison] = []
    changes: dict[str, tuple[list[Change], list[Change]]] = {}
    found: dict[str, list[Change]] = {name: [] for name in names}
    for before, after in _methods(first, second):
        ours = np.flatnonzero(second.samples["method"] == after)
        partner = _partners(first, second, before, ours)
        label = after if before == after else f"{before} -> {after}"
        for name in names:
            new = second.scores[name][ours]
            old = np.where(partner >= 0, first.scores[name][partner], np.nan)
            people = second.samples["identity_id"][ours].astype(str)
            result = paired_difference(new, old, people)
            both = ~np.isnan(new - old)
            better = second.metrics[name].higher_is_better
            rows.append(
                Comparison(
                    label,
                    name,
                    better,
                    float(old[both].mean()) if both.any() else math.nan,
                    float(new[both].mean()) if both.any() else math.nan,
                    result.mean,
                    result.low,
                    result.high,
                    result.n,
                    result.unpaired,
                    True,
                )
            )
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
    shared = [(name, name) for name in new if name in old]
    if not shared and len(old) == len(new) == 1:
        return [(old[0], new[0])]
    if not shared:
        raise ValueError(
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
            means = [_float(cell["mean"]) for cell in (before, after)]
            reach = [(_float(cell["high"]) - _float(cell["low"])) / 2 for cell in (before, after)]
            mean, half = means[1] - means[0], math.hypot(*reach)
            rows.append(
                Comparison(
                    method,
                    name,
                    info.get("higher_is_better"),
                    means[0],
                    means[1],
                    mean,
                    mean - half,
                    mean + half,
                    int(after["n"]),
                    0,
                    False,
                )
            )
    if not rows:
        raise ValueError("the reports have no method and metric in common, allowed: at least one")
    return rows


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def failures(rows: Sequence[Comparison], margins: Mapping[str, float]) -> list[str]:
    """One sentence for each method whose metric fell by more than its margin.

    "Fell" is in the metric's own direction. A metric without a number after the change has fallen.

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
        if not margin >= 0:
            raise ValueError(f"margin of {name} is {margin}, allowed: 0 or more")
    found = []
    for row in rows:
        if row.metric not in margins:
            continue
        loss = -row.mean if row.higher_is_better else row.mean
        if math.isnan(loss):
            found.append(f"{row.method}: {row.metric} has no value to compare")
        elif loss > margins[row.metric]:
            found.append(
                f"{row.method}: {row.metric} fell by {loss:.4f} ({row.before:.4f} -> "
                f"{row.after:.4f}), allowed: {margins[row.metric]:g}"
            )
    return found
