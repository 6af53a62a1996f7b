"""Figures of a report as a paper prints them: one column wide, 7 pt, ten methods apart.

Drawn without pyplot (no global state). Methods differ by colour and by marker and are named beside
their marks, or beside the axes with their marks, so that a grey print can be read. Every function
gives a `Figure`, of which `eval.reports.print_style.render` makes a PNG for pages, and SVG and PDF
for papers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from eval.metric_info import MetricInfo
from eval.reports.labels import label_ends, label_points
from eval.reports.print_style import COLUMN, LIGHT, POINTS, RC, SMALL, Theme, themed, wrapped
from eval.reports.tables import Row
from eval.stats import Summary

__all__ = [
    "Level",
    "axis_title",
    "curve",
    "scatter",
    "style_profile",
]

# Okabe and Ito (2008), without black and yellow, which vanish on one of the backgrounds.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
# With six colours no two of the first thirty methods share both.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
# Fewer people than this carry no band: each is drawn instead.
LEAST_PEOPLE = 6
# More methods than this are named beside the axes instead of beside their marks.
_MOST_BESIDE = 6


@dataclass(frozen=True, slots=True)
class Level:
    """A bound across a figure: real photos scored as if a method had made them.

    Attributes:
        name: words beside the line.
        mean: its value.
        low, high: of its interval; None where too few people carry a band.
    """

    name: str
    mean: float
    low: float | None = None
    high: float | None = None


def axis_title(title: str, network: str, unit: str, bounds: tuple[float, float]) -> str:
    """Two lines: what is measured; by which network, in which unit and range."""
    low, high = ("∞" if math.isinf(b) else f"{b:g}".replace("-", "−") for b in bounds)
    # Spaces that break no line.
    extent = f"{low}\u00a0to\u00a0{high}"
    return f"{title}\n{', '.join(part for part in (network, unit, extent) if part)}"


def scatter(
    rows: Sequence[Row],
    x: MetricInfo,
    y: MetricInfo,
    theme: Theme = LIGHT,
    *,
    levels: Sequence[Level] = (),
) -> Figure:
    """One point a method, error bars are the 95 % intervals over people.

    Args:
        rows: one a method, with cells of both metrics.
        x, y: metrics of the axes.
        theme: colours.
        levels: bounds of y.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(COLUMN, 2.7), layout="constrained")
        axes = figure.add_subplot()
        shown = [row for row in rows if row.cells[x.name].n and row.cells[y.name].n]
        for row in shown:
            number = rows.index(row)
            horizontal, vertical = row.cells[x.name], row.cells[y.name]
            axes.errorbar(
                horizontal.mean,
                vertical.mean,
                xerr=_reach(horizontal),
                yerr=_reach(vertical),
                markersize=4.5,
                elinewidth=0.7,
                capsize=1.5,
                capthick=0.7,
                **_look(number, theme),
            )
        axes.margins(0.15)
        _draw_levels(axes, levels, theme)
        _titled(axes, "x", x)
        _titled(axes, "y", y, width=34)
        themed(figure, theme)
        places = [(row.cells[x.name].mean, row.cells[y.name].mean) for row in shown]
        bars = [
            rectangle
            for row in shown
            for rectangle in _crosses(row.cells[x.name], row.cells[y.name])
        ]
        names = [str(row.method) for row in shown]
        looks = [_look(rows.index(row), theme) for row in shown]
        if len(shown) > _MOST_BESIDE:
            # In the order of their marks: between more marks no name has room.
            axes.set_xlim(*axes.get_xlim())
            edges = [(axes.get_xlim()[1], y) for _, y in places]
            label_ends(axes, edges, names, looks, theme.text, SMALL, lead=False)
            return figure
        avoid = bars + _lines(axes, levels)
        label_points(axes, places, names, looks, theme.text, POINTS, avoid=avoid)
        return figure


def curve(
    points: Sequence[Mapping[str, Any]],
    x_title: str,
    y_title: str,
    theme: Theme = LIGHT,
    *,
    levels: Sequence[Level] = (),
    log2: bool = False,
) -> Figure:
    """A line a method and role along x; bands are 95 % intervals over people.

    With fewer than `LEAST_PEOPLE` people there is no band: a thin line is drawn for each.

    Args:
        points: mappings with "method", "role", "x", "mean", "low", "high", "identities" and
            "by_person" (person -> mean); None where unknown.
        x_title, y_title: of the axes.
        theme: colours.
        levels: bounds of y.
        log2: factors of two along x are equally far apart.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(COLUMN, 2.4), layout="constrained")
        axes = figure.add_subplot()
        lines = list(dict.fromkeys((point["method"], point["role"]) for point in points))
        methods, roles = ({line[part] for line in lines} for part in (0, 1))
        ends, names, looks = [], [], []
        for number, (method, role) in enumerate(lines):
            own = [p for p in points if (p["method"], p["role"]) == (method, role)]
            own = sorted((p for p in own if p["mean"] is not None), key=lambda p: p["x"])
            if not own:
                continue
            look = _look(number, theme)
            xs, means = [p["x"] for p in own], [p["mean"] for p in own]
            axes.plot(xs, means, linewidth=1.1, markersize=3.2, zorder=3, **(look | {"ls": "-"}))
            ends.append((xs[-1], means[-1]))
            parts = [method] * (len(methods) > 1) + [f"to {role}"] * (len(roles) > 1)
            names.append(", ".join(parts) or f"to {role}")
            looks.append(look)
            if min(p["identities"] for p in own) < LEAST_PEOPLE:
                _one_line_a_person(axes, own, look["color"])
                continue
            known = [p for p in own if p["low"] is not None]
            low, high = [p["low"] for p in known], [p["high"] for p in known]
            across = [p["x"] for p in known]
            axes.fill_between(across, low, high, color=look["color"], alpha=0.15, linewidth=0)
        if log2:
            factors = sorted({float(point["x"]) for point in points})
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(factors))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.margins(x=0.05, y=0.12)
        _draw_levels(axes, levels, theme)
        axes.set_xlabel(x_title)
        axes.set_ylabel(_lines_of(y_title, 30))
        themed(figure, theme)
        label_ends(axes, ends, names, looks, theme.text, SMALL)
        return figure


def style_profile(
    rows: Sequence[Row], metrics: Sequence[MetricInfo], theme: Theme = LIGHT
) -> Figure:
    """A panel a metric, styles downwards, one mark a method with its interval.

    Args:
        rows: one a style and method.
        metrics: of the panels.
        theme: colours.
    """
    styles = list(dict.fromkeys(row.style for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    with matplotlib.rc_context(RC):
        legend = -(-len(methods) // 2) * 0.13
        height = 0.65 + legend + len(styles) * max(0.24, 0.075 * len(methods))
        figure = Figure(figsize=(COLUMN, height), layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        spread = 0.32 if len(methods) > 5 else 0.22
        offsets = np.linspace(-spread, spread, len(methods)) if len(methods) > 1 else np.zeros(1)
        for axes, metric in zip(panels, metrics, strict=True):
            for row in rows:
                cell, number = row.cells[metric.name], methods.index(row.method)
                if not cell.n:
                    continue
                axes.errorbar(
                    cell.mean,
                    styles.index(row.style) + offsets[number],
                    xerr=_reach(cell),
                    markersize=3.2,
                    elinewidth=0.7,
                    capsize=1.2,
                    capthick=0.7,
                    label=row.method if row.style == styles[0] else None,
                    **_look(number, theme),
                )
            _titled(axes, "x", metric, width=22)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_yticks(range(len(styles)), [str(style) for style in styles])
            axes.set_ylim(len(styles) - 0.4, -0.6)
            axes.margins(x=0.12)
        themed(figure, theme)
        handles, labels = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(
                handles, labels, loc="outside upper left", ncols=2, frameon=False,
                labelcolor=theme.text, fontsize=SMALL, handlelength=1, columnspacing=1,
                borderpad=0, labelspacing=0.3,
            )  # fmt: skip
        return figure


def _look(number: int, theme: Theme) -> dict[str, Any]:
    """Colour and marker of a method; from the seventh on the marker is hollow."""
    colour = COLOURS[number % len(COLOURS)]
    face = colour if number < len(COLOURS) else theme.background
    return {
        "marker": MARKERS[number % len(MARKERS)],
        "color": colour,
        "markerfacecolor": face,
        "markeredgecolor": colour,
        "markeredgewidth": 0.9,
        "ls": "none",
    }


def _draw_levels(axes: Axes, levels: Sequence[Level], theme: Theme) -> None:
    for level in levels:
        if level.low is not None and level.high is not None:
            axes.axhspan(level.low, level.high, color=theme.text, alpha=0.08, linewidth=0)
        axes.axhline(level.mean, color=theme.text, linewidth=0.7, linestyle=":")
        axes.annotate(
            level.name,
            xy=(1, level.mean),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 1.5),
            textcoords="offset points",
            ha="right",
            color=theme.text,
            fontsize=SMALL,
        )


def _crosses(x: Summary, y: Summary) -> list[tuple[float, float, float, float]]:
    """Where the error bars of a point are."""
    known = [] if math.isnan(x.low) else [(x.low, x.high, y.mean, y.mean)]
    return known if math.isnan(y.low) else [*known, (x.mean, x.mean, y.low, y.high)]


def _lines(axes: Axes, levels: Sequence[Level]) -> list[tuple[float, float, float, float]]:
    return [(*axes.get_xlim(), level.mean, level.mean) for level in levels]


def _one_line_a_person(axes: Axes, own: Sequence[Mapping[str, Any]], colour: str) -> None:
    people = dict.fromkeys(person for point in own for person in point.get("by_person") or {})
    for person in people:
        pairs = [(p["x"], p["by_person"][person]) for p in own if person in p["by_person"]]
        axes.plot(*zip(*pairs, strict=True), color=colour, linewidth=0.5, alpha=0.45, zorder=2)


def _titled(axes: Axes, side: str, info: MetricInfo, width: int = 60) -> None:
    arrow = {True: " ↑", False: " ↓", None: ""}[info.higher_is_better]
    text = axis_title(info.title + arrow, info.network, info.unit, info.bounds)
    getattr(axes, f"set_{side}label")(_lines_of(text, width))


def _lines_of(text: str, width: int) -> str:
    return "\n".join(wrapped(line, width, " ") for line in text.split("\n"))


def _reach(cell: Summary) -> list[list[float]] | None:
    if math.isnan(cell.low):
        return None
    return [[max(0.0, cell.mean - cell.low)], [max(0.0, cell.high - cell.mean)]]
