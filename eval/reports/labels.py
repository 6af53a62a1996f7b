"""Names beside marks: each where it hides least of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

__all__ = ["label_points"]

_DISTANCES = (5.0, 9.0, 14.0, 20.0, 28.0, 38.0, 50.0)  # from mark to text, in points
_LEADER = 5.0  # further away than this a thin line leads to the text
_MARK = 4.0


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
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
        colour: of text and leading lines.
        size: of the text in points.
        avoid: x0, x1, y0, y1 of what should stay to be seen, in data coordinates.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("axes are in no figure, allowed: those of one")
    figure.draw_without_rendering()
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
        box = text.get_window_extent()
        best = min(
            _candidates(box.width, box.height, scale),
            key=lambda place: _cost(place, x, y, box.width, box.height, frame, taken, words),
        )
        (dx, dy), distance = best
        text.set_position((dx / scale, dy / scale))
        if distance > _LEADER:
            line = axes.annotate(
                "",
                points[number],
                xytext=_near(dx, dy, box.width, box.height, scale),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": colour, "shrinkB": 3},
            )
            line.set_in_layout(False)
        left, bottom = x + dx, y + dy
        words.append(Bbox.from_bounds(left, bottom, box.width, box.height))


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
