"""From what a caller has of a picture to its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.faces.photos import decode_photo, photo_pixels

__all__ = ["Picture", "name_of", "pixels"]

Picture = str | Path | bytes | Image.Image | NDArray[Any]
"""A file's path or bytes, a picture, an array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, which is
uint8, or float in [0, 1]."""


def pixels(what: str, given: Any) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB, upright, in sRGB, on white.

    Args:
        what: names it in messages.
        given: a `Picture`.

    Raises:
        PhotoError: it cannot be decoded.
        ValueError: there is no such file, or an array of another kind.
    """
    if isinstance(given, Image.Image):
        return photo_pixels(given)
    if isinstance(given, np.ndarray):
        return photo_pixels(Image.fromarray(_eight_bits(what, given)))
    if isinstance(given, bytes):
        return decode_photo(given)
    if isinstance(given, str) and "://" in given:
        raise ValueError(f"{what} is {given!r}, allowed: a file on this machine, or its bytes")
    try:
        data = Path(given).expanduser().read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{what} {str(given)!r} cannot be read: {reason}") from None
    return decode_photo(data)


def name_of(given: Any) -> str | None:
    """The file's name without its ending; None where it is no path."""
    return Path(given).stem if isinstance(given, str | Path) else None


def _eight_bits(what: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 (H, W), (H, W, 3) or (H, W, 4) of an array of a picture."""
    told = f"{what} is an array {array.dtype} {array.shape}"
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or 0 in array.shape:
        raise ValueError(f"{told}, allowed: (H, W), (H, W, 3) RGB or (H, W, 4) RGBA")
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"{told} with values {low:g} to {high:g}, allowed of floats: 0 to 1")
        return (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"{told}, allowed: uint8, or floats of 0 to 1")
    return np.ascontiguousarray(array)
