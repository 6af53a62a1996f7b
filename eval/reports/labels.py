"""Names beside marks, where they hide least of the others, and beside the ends of lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox, offset_copy

from eval.reports.print_style import lay_out

__all__ = ["KEY", "label_ends", "label_points"]

KEY = "key"
"""Group of the marks that stand before names, in an SVG too."""

_DISTANCES = (5.0, 9.0, 14.0, 20.0, 28.0, 38.0, 50.0)  # from mark to text, in points
_LEADER = 5.0  # further away than this a thin line leads to the text
_MARK = 4.0
_KEY = 6.0  # room for the mark that stands before a name again
_ASIDE = 14.0  # from the end of a line to its name


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    looks: Sequence[Mapping[str, Any]],
    colour: str,
    size: float,
    *,
    avoid: Sequence[tuple[float, float, float, float]] = (),
) -> None:
    """Writes a name beside each point, the most crowded points first.

    Args:
        axes: with everything else drawn; its layout is fixed by this.
        points: N places in data coordinates.
        names: N texts.
        looks: N settings of the points' marks, whose colours leading lines have.
        colour: of the text.
        size: of the text in points.
        avoid: x0, x1, y0, y1 of what should stay to be seen, in data coordinates.
    """
    figure = _figure(axes)
    lay_out(figure)
    scale = figure.dpi / 72
    frame = axes.get_window_extent()
    marks = [tuple(map(float, axes.transData.transform(point))) for point in points]
    reach = _MARK * scale
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in marks]
    for x0, x1, y0, y1 in avoid:
        (left, bottom), (right, top) = axes.transData.transform([(x0, y0), (x1, y1)])
        taken.append(Bbox.from_extents(left - scale, bottom - scale, right + scale, top + scale))
    # Words that stand there already: those of the bounds.
    words = [text.get_window_extent() for text in axes.texts]
    order = sorted(range(len(marks)), key=lambda n: -_crowd(marks, n, 60 * scale))
    for number in order:
        x, y = marks[number]
        text = axes.annotate(
            names[number], points[number], xytext=(0, 0), textcoords="offset points",
            color=colour, fontsize=size,
        )  # fmt: skip
        text.set_in_layout(False)  # the layout is fixed: what is placed moves nothing
        written = text.get_window_extent()
        width, height = written.width, written.height
        best = min(
            _candidates(width, height, scale),
            key=lambda place: _cost(place, x, y, width, height, frame, taken, words),
        )
        (dx, dy), distance = best
        text.set_position((dx / scale, dy / scale))
        if distance > _LEADER:
            near = _near(dx, dy, width, height, scale)
            _leader(axes, points[number], near, looks[number]["color"])
        words.append(Bbox.from_bounds(x + dx, y + dy, width, height))


def label_ends(
    axes: Axes,
    ends: Sequence[tuple[float, float]],
    names: Sequence[str],
    looks: Sequence[Mapping[str, Any]],
    colour: str,
    size: float,
    *,
    lead: bool = True,
) -> None:
    """Writes names in a column right of their ends, in the ends' order, a mark before each.

    Args:
        axes: with everything else drawn.
        ends: N places in data coordinates, all at one x.
        names: N texts.
        looks: N settings of the lines' marks.
        colour: of the text; leading lines have their line's.
        size: of the text in points.
        lead: a thin line leads from each end to its name.
    """
    figure = _figure(axes)
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    aside = _ASIDE if lead else _ASIDE / 3
    heights = [float(axes.transData.transform(end)[1]) / scale for end in ends]
    places = _apart(heights, 1.25 * size)
    for end, name, look, height, place in zip(ends, names, looks, heights, places, strict=True):
        up = place - height
        axes.annotate(
            name, end, xytext=(aside + _KEY, up), textcoords="offset points", color=colour,
            fontsize=size, va="center", annotation_clip=False,
        )  # fmt: skip
        _key(axes, end, look, (aside + _KEY / 3, up))
        if lead:
            _leader(axes, end, (aside, up), look["color"])


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The places nearest to these heights, in their order, that are `gap` apart."""
    order = sorted(range(len(heights)), key=lambda n: heights[n])
    # Without the gaps they have only to rise: neighbours that fall share their mean.
    blocks: list[list[float]] = []
    for rank, number in enumerate(order):
        blocks.append([heights[number] - rank * gap])
        while len(blocks) > 1 and _middle(blocks[-2]) > _middle(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    rising = [_middle(block) for block in blocks for _ in block]
    places = dict(zip(order, (x + rank * gap for rank, x in enumerate(rising)), strict=True))
    return [places[number] for number in range(len(heights))]


def _middle(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("axes are in no figure, allowed: those of one")
    return figure


def _key(
    axes: Axes,
    point: tuple[float, float],
    look: Mapping[str, Any],
    offset: tuple[float, float],
) -> None:
    """The point's mark once more, so many points away."""
    place = offset_copy(axes.transData, _figure(axes), *offset, units="points")
    mark = Line2D([point[0]], [point[1]], transform=place, markersize=3, clip_on=False, **look)
    mark.set_in_layout(False)
    mark.set_gid(KEY)
    axes.add_artist(mark)


def _leader(axes: Axes, point: tuple[float, float], to: tuple[float, float], colour: str) -> None:
    line = axes.annotate(
        "",
        point,
        xytext=to,
        textcoords="offset points",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": colour, "shrinkB": 3},
    )
    line.set_in_layout(False)


def _crowd(marks: Sequence[Sequence[float]], own: int, radius: float) -> int:
    return sum(math.dist(marks[own], other) < radius for other in marks)


def _candidates(
    width: float, height: float, scale: float
) -> Iterator[tuple[tuple[float, float], float]]:
    """Offsets of the text's lower left corner in pixels, nearest first, with the distance."""
    for distance in _DISTANCES:
        reach = distance * scale
        for part in range(16):
            angle = math.pi * part / 8
            across, up = math.cos(angle), math.sin(angle)
            left = across * reach + (across - 1) / 2 * width
            below = up * reach + (up - 1) / 2 * height
            yield (left, below), distance


def _cost(
    place: tuple[tuple[float, float], float],
    x: float,
    y: float,
    width: float,
    height: float,
    frame: Bbox,
    taken: Sequence[Bbox],
    words: Sequence[Bbox],
) -> float:
    """What a place hides: other words and the frame weigh most, then marks and bars, then the
    distance."""
    (dx, dy), distance = place
    box = Bbox.from_bounds(x + dx, y + dy, width, height)
    inside = Bbox.intersection(box, frame)
    area = width * height
    outside = area - (inside.width * inside.height if inside else 0.0)
    hidden = sum(_common(box, other) for other in taken)
    unreadable = sum(_common(box, other) for other in words)
    return 20 * (outside + unreadable) + 2 * hidden + 0.02 * distance * height


def _common(a: Bbox, b: Bbox) -> float:
    both = Bbox.intersection(a, b)
    return both.width * both.height if both else 0.0


def _near(dx: float, dy: float, width: float, height: float, scale: float) -> tuple[float, float]:
    """The point of the text's box that is nearest to the mark, in points."""
    return (
        min(max(0.0, dx), dx + width) / scale,
        min(max(0.0, dy), dy + height) / scale,
    )
