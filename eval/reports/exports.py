"""The table of methods for a paper: CSV with intervals, and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.metric_info import MetricInfo
from eval.reports.tables import Row

__all__ = ["csv_table", "latex_table"]

_COLUMNS = (
    "method",
    "metric",
    "unit",
    "better",
    "mean",
    "low",
    "high",
    "n",
    "nan",
    "people",
    "over",
)
_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def csv_table(
    rows: Sequence[Row], metrics: Sequence[MetricInfo], identity: Mapping[str, Any] | None = None
) -> str:
    """One line a method and metric; numbers are not rounded, unknown ones are empty.

    Args:
        rows: one a method.
        metrics: of the columns.
        identity: of `eval.identity`, which comes first; None: not measured.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        for name, unit, cell in _identity(identity, row.method):
            found = [_plain(cell[key]) for key in ("mean", "low", "high")]
            counts = [cell["n"], cell["nan"], cell["identities"], cell["over"]]
            writer.writerow([row.method, name, unit, "higher", *found, *counts])
        for info in metrics:
            one = row.cells[info.name]
            better = {True: "higher", False: "lower", None: ""}[info.higher_is_better]
            found = [_plain(value) for value in (one.mean, one.low, one.high)]
            counts = [one.n, one.nan, one.identities, one.over]
            writer.writerow([row.method, info.name, info.unit, better, *found, *counts])
    return stream.getvalue()


def latex_table(
    rows: Sequence[Row], metrics: Sequence[MetricInfo], identity: Mapping[str, Any] | None = None
) -> str:
    """A `tabular` with the interval under each mean; needs the packages amsmath and booktabs.

    Args:
        rows, metrics, identity: as in `csv_table`.
    """
    heads = [_heading(info.title, info.higher_is_better) for info in metrics]
    if identity:
        chance = f"{100 * identity['chance']:.1f}"
        heads = [r"Margin $\uparrow$", rf"Rank-1 $\uparrow$ (chance {chance}\,\%)", *heads]
    lines = [
        r"% \usepackage{amsmath,booktabs}",
        rf"\begin{{tabular}}{{l{'c' * len(heads)}}}",
        r"\toprule",
        " & ".join(["Method", *heads]) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        cells = [
            _cell(cell["mean"], cell["low"], cell["high"], unit)
            for _, unit, cell in _identity(identity, row.method)
        ]
        if identity and not cells:
            cells = ["--", "--"]
        for info in metrics:
            one = row.cells[info.name]
            cells.append(_cell(one.mean, one.low, one.high, info.unit))
        lines.append(" & ".join([_escaped(str(row.method)), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _identity(
    identity: Mapping[str, Any] | None, method: str | None
) -> list[tuple[str, str, Mapping[str, Any]]]:
    found = (identity or {}).get("methods", {}).get(method)
    if not found:
        return []
    return [
        ("identity_margin", "cosine", found["margin"]),
        ("identity_rank1", "share", found["rank1"]),
    ]


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _heading(title: str, higher: bool | None) -> str:
    arrow = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}[higher]
    return _escaped(title) + arrow


def _cell(mean: float | None, low: float | None, high: float | None, unit: str) -> str:
    if mean is None or math.isnan(mean):
        return "--"
    text = _number(mean, unit)
    if low is None or high is None or math.isnan(low):
        return f"${text}$"
    ends = rf"[{_number(low, unit)},\ {_number(high, unit)}]"
    return rf"$\genfrac{{}}{{}}{{0pt}}{{}}{{{text}}}{{{ends}}}$"


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.1f}" if unit == "share" else f"{value:.3f}"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
