"""The report's section on pictures of several people: a table a method, and pictures with boxes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from eval.group_data import group_tables
from eval.pictures import open_picture
from eval.reports.thumbnails import data_uri
from eval.run_data import RunData

__all__ = ["COLORS", "group_section"]

COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00")
"""Of the people of a group, in the order of their regions (Okabe and Ito)."""
_MOST = 24
_EDGE = 224


def group_section(data: RunData) -> dict[str, Any] | None:
    """What the report says of groups; None: the run has none.

    Returns:
        "methods" (`group_tables`), "pictures": up to 24 with their boxes drawn, the groups of the
        first prompt and seed in all methods first, and "of", how many there are.
    """
    groups = data.groups
    if not len(groups):
        return None
    made = [
        row
        for row in range(len(groups))
        if groups.samples["has_image"][row] and groups.samples["sample_id"][row] in groups.seen
    ]
    order = {
        name: {value: place for place, value in enumerate(dict.fromkeys(groups.samples[name]))}
        for name in ("prompt_id", "style", "seed", "identity_id", "method")
    }
    made.sort(key=lambda row: [order[name][groups.samples[name][row]] for name in order])
    shown = {groups.samples["sample_id"][row]: row for row in made[:_MOST]}
    pictures = {}
    for name, encoded in data.pictures(list(shown)):
        picture = open_picture(encoded)
        if picture is None:
            data.missing.append(f"picture {name} cannot be decoded")
            continue
        row = shown[name]
        told = ("identity_id", "method", "prompt_id", "style", "seed", "prompt")
        pictures[name] = {
            **{key: groups.samples[key][row] for key in told},
            "src": _with_boxes(picture, groups.seen[name]),
            "people": [_told(one) for one in groups.seen[name]],
        }
    return {
        "methods": group_tables(groups),
        "pictures": [pictures[name] for name in shown if name in pictures],
        "of": len(made),
    }


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("person", "identity", "group_margin", "mixed_up")
    told = {name: row[name] for name in names}
    color = COLORS[row["number"] % len(COLORS)]
    return {**told, "color": color, "in_region": row["face_in_region"] is not None}


def _with_boxes(picture: Image.Image, rows: Sequence[Mapping[str, Any]]) -> str:
    """Regions in thin lines, the face that is each person's by identity in thick ones."""
    factor = _EDGE / max(picture.size)
    size = round(factor * picture.width), round(factor * picture.height)
    large = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(large)
    for row in rows:
        color = COLORS[row["number"] % len(COLORS)]
        for name, width in (("region", 1), ("matched_face", 3)):
            if row[name] is not None:
                # The sides of the picture are seen too.
                corners = [
                    min(max(side * size[axis % 2], 0), size[axis % 2] - 1)
                    for axis, side in enumerate(row[name])
                ]
                draw.rectangle(corners, outline=color, width=width)
    stream = io.BytesIO()
    large.save(stream, format="WEBP", quality=85, method=2)
    return data_uri(stream.getvalue(), "image/webp")
