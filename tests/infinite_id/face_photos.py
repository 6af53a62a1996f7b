"""The photos inside insightface: taken from the installed package, never copied here."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.faces import FaceBackend, load_face_backend
from infinite_id.photos import decode_photo


@cache
def photo(name: str) -> NDArray[np.uint8]:
    distribution = importlib.metadata.distribution("insightface")
    path = Path(str(distribution.locate_file(f"insightface/data/images/{name}")))
    return decode_photo(path.read_bytes())


@cache
def embedded() -> FaceBackend:
    return load_face_backend("embedded")


def resized(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
