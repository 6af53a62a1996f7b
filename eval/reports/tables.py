"""The numbers of a report: summaries by method, style and identity, and the extreme pictures.

The rate of pictures without a face stands apart and is never folded into a mean: identity metrics
are NaN there, counted as such, and a method that loses faces cannot gain by it unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.run_data import RunData
from eval.stats import Difference, Summary, holm, paired_difference, summarise
from eval.units import units_of_samples

__all__ = ["Row", "Tables", "extremes", "make_tables", "over_of"]

FACE_FOUND = "face_found"
REFERENCE_METHOD = "infinite_id"
IDENTITY_METRIC = "identity_facenet"
# Of more people than this, the ones with the lowest identity score are listed.
MAX_IDENTITIES = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        method, style, identity_id: what is selected; None: all.
        requests, pictures, scored: how many of each.
        distinct: different pictures among the scored.
        no_face: pictures without a face among the scored; None where that was not measured.
        cells: metric -> summary over the scored pictures.
        differences: metric -> paired difference to the reference method; empty for itself. Marks
            stand for the table that the row is in.
    """

    method: str | None
    style: str | None
    identity_id: str | None
    requests: int
    pictures: int
    scored: int
    distinct: int
    no_face: int | None
    cells: dict[str, Summary]
    differences: dict[str, Difference]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; NaN stays NaN."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tables:
    """All summaries of a run.

    Attributes:
        reference: the method that differences are taken to; None with fewer than two methods.
        main: the reference, or the only method; empty of a run without pictures.
        methods: one row a method.
        styles: one row a style and method.
        identities: one row a person of the main method: a mean over methods is nobody's. At most
            `MAX_IDENTITIES`, then the lowest.
        identities_left_out: people beyond that.
    """

    reference: str | None
    main: str
    methods: list[Row]
    styles: list[Row]
    identities: list[Row]
    identities_left_out: int

    @property
    def over(self) -> str:
        """What the methods' intervals generalise over, in words; empty where there is none."""
        return over_of(self.methods)


def over_of(rows: Sequence[Row]) -> str:
    """What the intervals of rows generalise over, in words; empty where there is none."""
    cells = [cell for row in rows for cell in row.cells.values()]
    return " or ".join(dict.fromkeys(cell.over for cell in cells if cell.over))


def make_tables(data: RunData, *, reference: str | None = None) -> Tables:
    """Summaries by method, by style and method, and by person.

    Args:
        data: of `read_run`.
        reference: the method to compare with; by default `infinite_id`, or the first.

    Raises:
        ValueError: no such method in the run.
    """
    methods, styles = data.names("method"), data.names("style")
    if reference is not None and reference not in methods:
        raise ValueError(f"reference is {reference!r}, allowed: {', '.join(methods) or 'none'}")
    if len(methods) < 2:
        chosen = None
    else:
        chosen = reference or (REFERENCE_METHOD if REFERENCE_METHOD in methods else methods[0])
    paired = _Paired.of(data, chosen)
    method_of, style_of = data.samples["method"], data.samples["style"]
    by_method = {name: method_of == name for name in methods}
    method_rows = [
        _row(data, by_method[name], paired, method=name, reference=chosen) for name in methods
    ]
    style_rows = [
        _row(data, mask, paired, method=name, style=style, reference=chosen)
        for style in styles
        for name in methods
        if (mask := by_method[name] & (style_of == style)).any()
    ]
    main = chosen or "".join(methods)
    identity_of, alone = data.samples["identity_id"], _Paired.of(data, None)
    of_main = method_of == main
    people = list(dict.fromkeys(identity_of[of_main].tolist()))
    shown = people if len(people) <= MAX_IDENTITIES else _lowest_people(data, of_main)
    identity_rows = [
        _row(data, of_main & (identity_of == name), alone, method=main, identity_id=name)
        for name in shown
    ]
    left_out = len(people) - len(shown)
    return Tables(chosen, main, _mark(method_rows), _mark(style_rows), identity_rows, left_out)


def _mark(rows: list[Row]) -> list[Row]:
    """Marks what stands out in a whole table of differences: one family."""
    places = [(n, name) for n, row in enumerate(rows) for name in row.differences]
    marked = holm([rows[n].differences[name] for n, name in places])
    found: list[dict[str, Difference]] = [{} for _ in rows]
    for (n, name), one in zip(places, marked, strict=True):
        found[n][name] = one
    return [replace(row, differences=new) for row, new in zip(rows, found, strict=True)]


def extremes(
    data: RunData, metrics: Iterable[str], count: int = 6
) -> dict[str, dict[str, list[str]]]:
    """metric -> {"best", "worst"} -> up to `count` sample_ids, the most extreme first.

    Only pictures that exist and have a number count; metrics without a direction are left out.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in metrics:
        better = data.metrics[name].higher_is_better
        values = data.scores[name]
        usable = np.flatnonzero(~np.isnan(values) & data.samples["has_image"])
        if better is None or not len(usable) or np.ptp(values[usable]) == 0:
            continue
        rising = usable[np.argsort(values[usable], kind="stable")]
        ids = data.samples["sample_id"][rising].tolist()
        low, high = ids[:count], ids[::-1][:count]
        found[name] = {"best": high, "worst": low} if better else {"best": low, "worst": high}
    return found


def _lowest_people(data: RunData, mask: NDArray[np.bool_]) -> list[str]:
    names, person = np.unique(data.samples["identity_id"][mask].astype(str), return_inverse=True)
    values = data.scores.get(IDENTITY_METRIC, np.full(len(data), np.nan))[mask]
    known = ~np.isnan(values)
    counts = np.bincount(person[known], minlength=len(names))
    sums = np.bincount(person[known], weights=values[known], minlength=len(names))
    # Someone without a single scored face comes first.
    means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
    return [str(name) for name in names[np.argsort(means, kind="stable")[:MAX_IDENTITIES]]]


@dataclass(frozen=True, slots=True)
class _Paired:
    """The reference method's part of each pair.

    Attributes:
        scores: metric -> (N,) its value for the same person, text, style and seed; empty without
            a reference.
        pictures: (N, 2) the two pictures of each pair.
    """

    scores: dict[str, NDArray[np.float64]]
    pictures: NDArray[np.int64]

    @classmethod
    def of(cls, data: RunData, reference: str | None) -> _Paired:
        """Of a run; None: no reference."""
        own = data.samples["picture"]
        if reference is None:
            return cls({}, np.stack([own, own], axis=1))
        columns = [
            data.samples[name].tolist() for name in ("identity_id", "prompt_id", "style", "seed")
        ]
        keys = list(zip(*columns, strict=True))
        row_of = {
            key: row
            for row, (key, method) in enumerate(zip(keys, data.samples["method"], strict=True))
            if method == reference
        }
        partner = np.array([row_of.get(key, -1) for key in keys], dtype=np.int64)
        scores = {
            name: np.where(partner >= 0, values[partner], np.nan)
            for name, values in data.scores.items()
        }
        return cls(scores, np.stack([own, own[partner]], axis=1))


def _row(
    data: RunData,
    mask: NDArray[np.bool_],
    paired: _Paired,
    *,
    method: str | None = None,
    style: str | None = None,
    identity_id: str | None = None,
    reference: str | None = None,
) -> Row:
    scored = mask & data.samples["has_scores"]
    people = data.samples["person"][scored].astype(str)
    found = data.scores.get(FACE_FOUND)
    units = units_of_samples(data.samples, scored)
    pictures = data.samples["picture"][scored]
    cells = {
        name: _within(
            summarise(values[scored], people, units, pictures=pictures, rate=_is_rate(data, name)),
            data.metrics[name].bounds,
        )
        for name, values in data.scores.items()
    }
    differences = {}
    if method != reference:
        differences = {
            name: paired_difference(
                data.scores[name][scored],
                others[scored],
                people,
                units,
                pictures=paired.pictures[scored],
                rate=_is_rate(data, name),
            )
            for name, others in paired.scores.items()
        }
    return Row(
        method=method,
        style=style,
        identity_id=identity_id,
        requests=int(mask.sum()),
        pictures=int((mask & data.samples["has_image"]).sum()),
        scored=int(scored.sum()),
        distinct=len(np.unique(pictures)),
        no_face=None if found is None else int((found[scored] == 0).sum()),
        cells=cells,
        differences=differences,
    )


def _is_rate(data: RunData, metric: str) -> bool:
    return data.metrics[metric].unit == "share"


def _within(cell: Summary, bounds: tuple[float, float]) -> Summary:
    """With an interval that holds no impossible values."""
    return replace(cell, low=max(cell.low, bounds[0]), high=min(cell.high, bounds[1]))
