"""Grids of pictures as papers print them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from eval.reports.print_style import COLUMN, LIGHT, PAGE, RC, SMALL, Theme, themed, wrapped

__all__ = ["contact_sheet"]


def contact_sheet(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Image.Image | None, Sequence[Image.Image | None]]],
    theme: Theme = LIGHT,
) -> Figure:
    """A grid of pictures as papers print it, the reference crop at the left of each row.

    A page wide from five columns on, else a column.

    Args:
        columns: C headings.
        rows: (identity, reference crop, C pictures); None leaves a gap.
        theme: colours.
    """
    shape = (len(rows), len(columns) + 1)
    width = PAGE if shape[1] > 5 else COLUMN
    inch = min(0.9, (width - 0.2) / shape[1])
    letters = max(6, int(inch * 72 / (0.55 * SMALL)))
    headings = [wrapped(text, letters) for text in ("reference", *columns)]
    lines = max(heading.count("\n") for heading in headings) + 1
    with matplotlib.rc_context(RC):
        figure = Figure(
            figsize=(inch * shape[1] + 0.2, inch * shape[0] + 0.03 + 0.1 * lines),
            layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0),
        )
        grid = figure.subplots(*shape, squeeze=False)
        for line, (name, reference, pictures) in zip(grid, rows, strict=True):
            for axes, picture in zip(line, (reference, *pictures), strict=True):
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_aspect("equal")
                axes.spines[:].set_visible(False)
                if picture is not None:
                    axes.imshow(np.asarray(picture), interpolation="none")
                else:
                    axes.set(xlim=(0, 1), ylim=(0, 1))
            label = "\n".join(_short(part, letters) for part in name.split("\n"))
            line[0].set_ylabel(label, fontsize=SMALL, labelpad=1)
        for axes, heading in zip(grid[0], headings, strict=True):
            axes.set_title(heading, fontsize=SMALL, pad=2)
        themed(figure, theme, lines=False)
        return figure


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
