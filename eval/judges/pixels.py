"""Preparation of pictures that judges share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "resize_and_crop",
]


def resize_and_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 (size, size, 3): CLIP's own preparation, shorter side to `size`, centre cut out."""
    height, width = image.shape[:2]
    factor = size / min(height, width)
    shape = (max(size, round(width * factor)), max(size, round(height * factor)))
    picture = Image.fromarray(image)
    if shape != picture.size:
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))
