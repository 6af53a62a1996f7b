"""Photos inside insightface, taken from the installed package and never copied here, and the
synthetic faces of tests/assets."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.faces.detection import FaceBackend
from infinite_id.faces.loading import load_face_backend
from infinite_id.faces.photos import decode_photo


@cache
def photo(name: str) -> NDArray[np.uint8]:
    distribution = importlib.metadata.distribution("insightface")
    path = Path(str(distribution.locate_file(f"insightface/data/images/{name}")))
    return decode_photo(path.read_bytes())


PEOPLE, PORTRAITS = 6, 3
ASSETS = Path(__file__).parents[1] / "assets"


@cache
def portraits() -> list[NDArray[np.uint8]]:
    """Six people who do not exist, three 64 px portraits each, person after person."""
    return [
        decode_photo((ASSETS / f"person{person}_{index}.png").read_bytes())
        for person in range(PEOPLE)
        for index in range(PORTRAITS)
    ]


def split(cosines: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(of one person, of different people): the pairs of `portraits()`, without the diagonal."""
    person = np.repeat(np.arange(PEOPLE), PORTRAITS)
    same = person[:, None] == person
    return cosines[same & ~np.eye(len(person), dtype=bool)], cosines[~same]


@cache
def embedded() -> FaceBackend:
    return load_face_backend("embedded")


def resized(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
