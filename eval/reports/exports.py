"""The table of methods for a paper: CSV with intervals, and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.metric_info import MetricInfo
from eval.reports.formatting import carries, rounded
from eval.reports.tables import Row

__all__ = ["csv_table", "latex_identity", "latex_table", "networks_of"]

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
_DIGITS = {"degrees": 1}
_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def csv_table(
    rows: Sequence[Row], metrics: Sequence[MetricInfo], identity: Mapping[str, Any] | None = None
) -> str:
    """One line a method and metric; numbers are not rounded, unknown ones are empty.

    `identity_margin` and `identity_rank1` are by FaceNet; with further networks of identity lines
    such as `identity_margin_adaface` and `identity_margin_mean` follow.

    Args:
        rows: one a method.
        metrics: of the columns.
        identity: of `eval.identity`, which comes first; None: not measured.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        by_network = [
            (f"{metric}_{network.lower()}", unit, cell)
            for network, found in networks_of(identity).items()
            for metric, unit, cell in _identity(found, row.method)
        ]
        for name, unit, cell in [*_identity(identity, row.method), *by_network]:
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
    rows: Sequence[Row],
    metrics: Sequence[MetricInfo],
    identity: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """A `tabular` with the interval under each mean; needs the packages amsmath and booktabs.

    What a caption has to say stands above it in comments: `notes`, then who judges each column.

    Args:
        rows, metrics, identity: as in `csv_table`.
        notes: sentences about the run.
    """
    heads = [_heading(info) for info in metrics]
    if identity:
        chance = f"{100 * identity['chance']:.1f}"
        rank = rf"Rank-1 (\%, chance {chance}) $\uparrow$"
        heads = [r"Margin (FaceNet) $\uparrow$", rank, *heads]
    judged = [
        f"{info.title}: {'; '.join(p for p in (info.network, info.revision, info.note) if p)}"
        for info in metrics
        if info.network
    ]
    lines = [
        r"% \usepackage{amsmath,booktabs,graphicx}",
        r"% as wide as the text: \resizebox{\textwidth}{!}{\input{table}}",
        *("% " + " ".join(note.split()) for note in [*notes, *judged]),
        rf"\begin{{tabular}}{{l{'c' * len(heads)}}}",
        r"\toprule",
        " & ".join(["Method", *heads]) + r" \\",
        r"\midrule",
    ]
    body = []
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
        body.append(" & ".join([_escaped(str(row.method)), *cells]) + r" \\")
    return _whole(lines, body)


def latex_identity(identity: Mapping[str, Any]) -> str:
    """A `tabular` of margin and rank-1 by every network of identity and by their mean.

    Args:
        identity: of `eval.identity`, with more than one network.
    """
    networks = networks_of(identity)
    chance = f"{100 * identity['chance']:.1f}"
    over = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_escaped(name)}}}" for name in networks)
    rules = "".join(rf"\cmidrule(lr){{{2 * n + 2}-{2 * n + 3}}}" for n in range(len(networks)))
    heads = [r"Margin $\uparrow$", r"Rank-1 (\%) $\uparrow$"] * len(networks)
    lines = [
        r"% \usepackage{amsmath,booktabs}",
        rf"% rank-1: chance is {chance} %",
        *(f"% {name}: {found['revision']}" for name, found in networks.items()),
        *(f"% {name}: {w}" for name, found in networks.items() if (w := found["warning"])),
        rf"\begin{{tabular}}{{l{'cc' * len(networks)}}}",
        r"\toprule",
        rf" & {over} \\",
        rules,
        " & ".join(["Method", *heads]) + r" \\",
        r"\midrule",
    ]
    body = []
    for method in identity["methods"]:
        cells = [
            _cell(cell["mean"], cell["low"], cell["high"], unit)
            for found in networks.values()
            for _, unit, cell in _identity(found, method)
        ]
        body.append(" & ".join([_escaped(method), *cells]) + r" \\")
    return _whole(lines, body)


def _whole(head: Sequence[str], rows: Sequence[str]) -> str:
    """Rows stand apart, so that an interval is not read with the mean below it."""
    body = "\n\\addlinespace\n".join(rows)
    return "\n".join([*head, body, r"\bottomrule", r"\end{tabular}", ""])


def networks_of(identity: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Network -> "methods"; empty where FaceNet alone judged."""
    return (identity or {}).get("networks") or {}


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


def _heading(info: MetricInfo) -> str:
    arrow = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}[info.higher_is_better]
    unit = {"share": r" (\%)", "degrees": r" ($^\circ$)"}.get(info.unit, "")
    return _escaped(info.title) + unit + arrow


def _cell(mean: float | None, low: float | None, high: float | None, unit: str) -> str:
    if mean is None or math.isnan(mean):
        return "--"
    text = _number(mean, unit)
    if low is None or high is None or not carries(low, high):
        return f"${text}$"
    ends = rf"[{_number(low, unit)},\ {_number(high, unit)}]"
    return rf"$\underset{{{ends}}}{{{text}}}$"


def _number(value: float, unit: str) -> str:
    return rounded(100 * value, 1) if unit == "share" else rounded(value, _DIGITS.get(unit, 3))


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
