"""Encoded pictures of a run, opened."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

__all__ = ["open_picture"]


def open_picture(data: bytes) -> Image.Image | None:
    """The picture in RGB; None where the bytes hold none."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
