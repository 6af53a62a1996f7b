"""How figures look in print: sizes, letters, colours of text and background, files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

__all__ = [
    "COLUMN", "DARK", "LIGHT", "PAGE", "POINTS", "RC", "SMALL", "Theme", "lay_out", "render",
    "themed", "wrapped",
]  # fmt: skip

COLUMN, PAGE = 3.3, 6.9  # inches: a column, and the text of both
POINTS, SMALL = 7.0, 6.0
_DPI = 300
RC: Any = {
    "font.size": POINTS,
    "axes.labelsize": POINTS,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "svg.hashsalt": "infinite-id",
}


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of text and background."""

    text: str
    background: str
    grid: str


LIGHT = Theme(text="#1d2733", background="#ffffff", grid="#d9dfe6")
DARK = Theme(text="#e6eaf0", background="#171c23", grid="#39424e")


def lay_out(figure: Figure) -> None:
    """Gives everything in a figure its place, once: what is drawn later moves nothing, and its
    files are alike."""
    if figure.get_layout_engine() is not None:
        figure.dpi = _DPI
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def render(figure: Figure, kind: str = "png") -> bytes:
    """The figure as a file; the same bytes for the same numbers.

    Args:
        figure: of this module.
        kind: "png" (300 dpi), "svg" or "pdf".
    """
    stream = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(RC):
        lay_out(figure)
        figure.savefig(
            stream,
            format=kind,
            dpi=_DPI,
            facecolor=figure.get_facecolor(),
            metadata=dates.get(kind),
        )
    return stream.getvalue()


def themed(figure: Figure, theme: Theme, *, lines: bool = True) -> None:
    """Gives a figure its colours, and with `lines` a grid and two axes."""
    figure.set_facecolor(theme.background)
    for axes in figure.axes:
        axes.set_facecolor(theme.background)
        axes.tick_params(colors=theme.text)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(theme.text)
        for spine in axes.spines.values():
            spine.set_color(theme.grid)
        if lines:
            axes.grid(color=theme.grid, linewidth=0.4)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)


def wrapped(text: str, width: int, mark: str = "_") -> str:
    """Lines of at most `width` letters, broken after a mark where there is one."""
    lines = [""]
    for part in text.replace(mark, mark + "\0").split("\0"):
        if lines[-1] and len((lines[-1] + part).rstrip(mark)) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)
