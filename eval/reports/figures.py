"""Figures of a report, drawn without pyplot (no global state) in colour-blind safe colours."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from eval.metric_info import MetricInfo
from eval.reports.tables import Row
from eval.stats import Summary

__all__ = ["Theme", "DARK", "LIGHT", "contact_sheet", "curve", "scatter", "style_profile"]

# Okabe and Ito (2008), without black and yellow, which vanish on one of the backgrounds.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of text and background."""

    text: str
    background: str
    grid: str


LIGHT = Theme(text="#1d2733", background="#ffffff", grid="#d9dfe6")
DARK = Theme(text="#e6eaf0", background="#171c23", grid="#39424e")


def scatter(
    rows: Sequence[Row],
    x: MetricInfo,
    y: MetricInfo,
    theme: Theme = LIGHT,
    *,
    levels: Sequence[tuple[str, float]] = (),
) -> bytes:
    """PNG: one point a method, error bars are the 95 % intervals over people.

    Args:
        rows: one a method, with cells of both metrics.
        x, y: metrics of the axes.
        theme: colours.
        levels: (name, value of y) of horizontal lines, such as bounds.
    """
    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        horizontal, vertical = row.cells[x.name], row.cells[y.name]
        if not (horizontal.n and vertical.n):
            continue
        axes.errorbar(
            horizontal.mean,
            vertical.mean,
            xerr=_reach(horizontal),
            yerr=_reach(vertical),
            fmt=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            markersize=9,
            elinewidth=1.3,
            capsize=3,
            label=row.method,
        )
    for name, value in levels:
        axes.axhline(value, color=theme.text, linewidth=1, linestyle=":")
        axes.annotate(
            name,
            xy=(0.01, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            color=theme.text,
            fontsize=8,
        )
    axes.set_xlabel(f"{x.title} ({x.name})")
    axes.set_ylabel(f"{y.title} ({y.name})")
    axes.margins(0.12)
    return _png(figure, theme)


def curve(
    points: Sequence[Mapping[str, Any]], x_title: str, y_title: str, theme: Theme = LIGHT
) -> bytes:
    """PNG: a line a method and role along x, with its 95 % intervals.

    Args:
        points: mappings with "method", "role", "x", "mean", "low", "high"; None where unknown.
        x_title, y_title: of the axes.
        theme: colours.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(point["method"] for point in points))
    roles = list(dict.fromkeys(point["role"] for point in points))
    for number, (method, role) in enumerate((m, r) for m in methods for r in roles):
        own = [p for p in points if (p["method"], p["role"]) == (method, role)]
        own = sorted((p for p in own if p["mean"] is not None), key=lambda p: p["x"])
        if not own:
            continue
        xs, means = [p["x"] for p in own], [p["mean"] for p in own]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(
            xs,
            means,
            marker=MARKERS[number % len(MARKERS)],
            color=colour,
            linewidth=1.6,
            label=f"{method}, to {role}" if len(methods) > 1 else f"to {role}",
        )
        known = [p for p in own if p["low"] is not None]
        axes.fill_between(
            [p["x"] for p in known],
            [p["low"] for p in known],
            [p["high"] for p in known],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    return _png(figure, theme)


def style_profile(
    rows: Sequence[Row], metrics: Sequence[MetricInfo], theme: Theme = LIGHT
) -> bytes:
    """PNG: a panel a metric, styles downwards, one mark a method with its interval.

    Args:
        rows: one a style and method.
        metrics: of the panels.
        theme: colours.
    """
    styles = list(dict.fromkeys(row.style for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    height = 1.6 + len(styles) * max(0.34, 0.13 * len(methods))
    figure = Figure(figsize=(3.6 * len(metrics), height), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    offsets = np.linspace(-0.3, 0.3, len(methods)) if len(methods) > 1 else np.zeros(1)
    for axes, metric in zip(panels, metrics, strict=True):
        for row in rows:
            cell, number = row.cells[metric.name], methods.index(row.method)
            if not cell.n:
                continue
            axes.errorbar(
                cell.mean,
                styles.index(row.style) + offsets[number],
                xerr=_reach(cell),
                fmt=MARKERS[number % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                markersize=5.5,
                elinewidth=1.2,
                capsize=2,
                label=row.method if row.style == styles[0] else None,
            )
        axes.set_xlabel(metric.title)
        axes.set_yticks(range(len(styles)), [str(style) for style in styles])
        axes.set_ylim(len(styles) - 0.4, -0.6)
        axes.margins(x=0.12)
    return _png(figure, theme)


def contact_sheet(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Image.Image | None, Sequence[Image.Image | None]]],
    tile: int = 128,
    theme: Theme = LIGHT,
) -> bytes:
    """PNG: a grid of pictures, the reference crop at the left of each row.

    Args:
        columns: C headings.
        rows: (identity, reference crop, C pictures); None leaves a gap.
        tile: edge of one picture in pixels.
        theme: colours.
    """
    inch = tile / 100
    shape = (len(rows), len(columns) + 1)
    figure = Figure(
        figsize=(inch * shape[1], inch * shape[0] + 0.35),
        dpi=100,
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    grid = figure.subplots(*shape, squeeze=False)
    headings = ("reference", *columns)
    for line, (name, reference, pictures) in zip(grid, rows, strict=True):
        for axes, picture in zip(line, (reference, *pictures), strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal")
            if picture is not None:
                axes.imshow(np.asarray(picture))
            else:
                axes.set(xlim=(0, 1), ylim=(0, 1))
        line[0].set_ylabel(_short(name, 16), fontsize=8)
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(_short(heading, 20), fontsize=8)
    return _png(figure, theme, legend=False)


def _reach(cell: Summary) -> list[list[float]] | None:
    if math.isnan(cell.low):
        return None
    # A percentile interval may lie beside a mean by rounding; matplotlib refuses negative reach.
    return [[max(0.0, cell.mean - cell.low)], [max(0.0, cell.high - cell.mean)]]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _png(figure: Figure, theme: Theme, legend: bool = True) -> bytes:
    figure.set_facecolor(theme.background)
    for axes in figure.axes:
        axes.set_facecolor(theme.background)
        axes.tick_params(colors=theme.text)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(theme.text)
        for spine in axes.spines.values():
            spine.set_color(theme.grid)
        if legend:
            axes.grid(color=theme.grid, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if legend and handles:
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=min(4, len(labels)),
            frameon=False,
            labelcolor=theme.text,
            fontsize=9,
        )
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=theme.background)
    return stream.getvalue()
