"""The arguments control_image, control_keypoints and their like of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infinite_id.control_image import ControlImage, control_image
from infinite_id.faces.keypoints import draw_kps
from infinite_id.interface.init_images import read_picture
from infinite_id.interface.values import as_number, check_beside

__all__ = ["control_images_of"]

_NUMBERS = {
    "controlnet_conditioning_scale": ("scale", 1.0),
    "control_guidance_start": ("start", 0.0),
    "control_guidance_end": ("end", 1.0),
}


def control_images_of(
    rows: Sequence[Mapping[str, Any]], height: int, width: int
) -> list[ControlImage | None]:
    """One a row, None where nothing holds it; what is given several times is made once.

    Args:
        rows: with control_image, control_keypoints, controlnet_conditioning_scale,
            control_guidance_start, control_guidance_end and control_streams, each None for none.
        height, width: of the pictures to be made.

    Raises:
        ValueError: a picture or keypoints that cannot be used, a value out of range, or one that is
            given without either.
    """
    check_beside(rows, [*_NUMBERS, "control_streams"], ["control_image", "control_keypoints"])
    made: dict[Any, ControlImage] = {}
    found: list[ControlImage | None] = []
    for row in rows:
        shown, points = row["control_image"], row["control_keypoints"]
        if shown is None and points is None:
            found.append(None)
            continue
        if shown is not None and points is not None:
            raise ValueError(
                "control_image and control_keypoints are both given, allowed: one of them a picture"
            )
        values: dict[str, Any] = {}
        for name, (short, default) in _NUMBERS.items():
            number = as_number(name, row[name])
            values[short] = default if number is None else number
        values["streams"] = "both" if row["control_streams"] is None else row["control_streams"]
        key = (id(shown), id(points), *values.values())
        if key not in made:
            picture = (
                draw_kps(_in_pixels(points, height, width), height, width)
                if shown is None
                else read_picture("control_image", shown)
            )
            made[key] = control_image(picture, height, width, **values)
        found.append(made[key])
    return found


def _in_pixels(points: Any, height: int, width: int) -> Any:
    try:
        fractions = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        fractions = np.empty(0)
    if fractions.shape != (5, 2) or not ((fractions >= 0) & (fractions <= 1)).all():
        raise ValueError(
            f"control_keypoints have the shape {fractions.shape}, allowed: (5, 2), x and y of "
            "eyes, nose and corners of the mouth in fractions of the picture, 0 to 1"
        )
    return fractions * (width, height)
