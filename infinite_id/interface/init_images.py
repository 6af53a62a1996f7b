"""The arguments image, mask_image and strength of a call: pictures that requests begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.faces.photos import PhotoError
from infinite_id.init_image import STRENGTH, InitImage, init_image
from infinite_id.interface.pixels import pixels
from infinite_id.interface.values import as_number, check_beside

__all__ = ["init_images_of", "mask_pixels", "read_picture"]


def init_images_of(
    rows: Sequence[Mapping[str, Any]], height: int, width: int
) -> list[InitImage | None]:
    """One a row, None where it begins with noise; what is given several times is read once.

    Args:
        rows: with image, mask_image and strength, each None for none.
        height, width: of the pictures to be made.

    Raises:
        ValueError: a picture cannot be read or does not fit, or a mask or a strength is given
            without one.
    """
    check_beside(rows, ["strength"], ["image"])
    made: dict[Any, InitImage] = {}
    found: list[InitImage | None] = []
    for row in rows:
        image, mask = row["image"], row["mask_image"]
        if image is None:
            if mask is not None:
                raise ValueError("mask_image is given without image, allowed: with image")
            found.append(None)
            continue
        strength = as_number("strength", row["strength"])
        strength = STRENGTH if strength is None else strength
        key = (_key(image), None if mask is None else _key(mask), strength)
        if key not in made:
            shown = read_picture("image", image)
            cover = None if mask is None else mask_pixels(mask)
            made[key] = init_image(shown, cover, strength, height, width)
        found.append(made[key])
    return found


def mask_pixels(mask: Any) -> NDArray[np.uint8]:
    """uint8 (H, W) of a mask: a picture in any form, or an array of bool.

    Raises:
        ValueError: it cannot be read.
    """
    if isinstance(mask, np.ndarray) and mask.dtype == np.bool_:
        mask = mask.astype(np.uint8) * 255
    return np.asarray(Image.fromarray(read_picture("mask_image", mask)).convert("L"))


def _key(given: Any) -> Any:
    return str(given) if isinstance(given, str | Path) else id(given)


def read_picture(what: str, given: Any) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB of a picture in any form.

    Raises:
        ValueError: it cannot be used; names it as `what`.
    """
    if not isinstance(given, str | Path | bytes | bytearray | Image.Image | np.ndarray):
        raise ValueError(
            f"{what} is a {type(given).__name__}, allowed: a path, bytes of a file, a PIL picture, "
            "or an array (H, W, 3)"
        )
    try:
        return pixels(what, bytes(given) if isinstance(given, bytearray) else given)
    except PhotoError as error:
        named = f" {str(given)!r}" if isinstance(given, str | Path) else ""
        raise ValueError(f"{what}{named} cannot be used: {error}") from None
