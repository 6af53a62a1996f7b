"""The pocket world on disk: people and pictures in chunks, each made from its number alone.

A chunk is a compressed-free `.npz` that any process can make, in any order, on any machine, with
the same result; writing is a rename, so that several processes may share a folder and an
interrupted one leaves no half file. People are split by index, never by picture: see `SPLITS`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infinite_id.pocket.weights import EDITIONS
from infinite_id.training.captions import caption, draw_description, pair_caption

if TYPE_CHECKING:
    from infinite_id.training.faces_gan import Person

__all__ = [
    "SPLITS",
    "People",
    "Pictures",
    "load_people",
    "load_pictures",
    "make_chunks",
    "people_chunk",
    "people_path",
    "photos_chunk",
    "photos_path",
    "picture_chunk",
    "pictures_path",
    "split_of",
]

PEOPLE_CHUNK = 100
"""Indices a people chunk; about five in six are accepted."""
PICTURE_CHUNK = 1000
PICTURES_FORM = 3
"""Of the files of pictures: those of another form are made anew."""
PORTRAITS = 3

SPLITS: dict[str, range] = {
    "test": range(0, 1),
    "validation": range(1, 2),
    "scorer": range(2, 5),
    "train": range(5, 20),
}
"""Split -> the remainders of a person's index by 20. The scorer's people are its own."""


def split_of(index: int) -> str:
    """The split that a person of that index belongs to."""
    return next(name for name, rest in SPLITS.items() if index % 20 in rest)


@dataclass(frozen=True, slots=True)
class People:
    """N people with three accepted pictures each.

    Attributes:
        index: int64 (N,).
        images: uint8 (N, 3, 64, 64, 3) RGB.
        bbox, landmarks, score: of the face in each, float32 (N, 3, 4), (N, 3, 5, 2), (N, 3).
        aligned: uint8 (N, 3, 112, 112, 3) RGB.
        face: float32 (N, 3, 128), unit norm.
    """

    index: NDArray[np.int64]
    images: NDArray[np.uint8]
    bbox: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: NDArray[np.float32]
    aligned: NDArray[np.uint8]
    face: NDArray[np.float32]

    def select(self, split: str) -> People:
        """Those of one split."""
        chosen = np.array([split_of(int(i)) == split for i in self.index], dtype=bool)
        return People(**{name: getattr(self, name)[chosen] for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class Pictures:
    """M composed pictures.

    Attributes:
        images: uint8 (M, S, S, 3) RGB.
        person: int64 (M,), position in the split's `People`.
        portrait: int64 (M,), which of the person's pictures was used.
        captions: M texts.
        style: M keys of `captions.STYLES`.
        landmarks: float32 (M, 5, 2), x y of the face in pixels, in the order of `Detection`; of two
            people, the left one's, as `person` and `portrait` are.
        other: int64 (M,), the right person; -1: there is one person.
    """

    images: NDArray[np.uint8]
    person: NDArray[np.int64]
    portrait: NDArray[np.int64]
    captions: NDArray[np.str_]
    style: NDArray[np.str_]
    landmarks: NDArray[np.float32]
    other: NDArray[np.int64]

    def lone_photos(self) -> NDArray[np.int64]:
        """Numbers of the raw photos of one person."""
        return np.flatnonzero((self.style == "photo") & (self.other < 0))

    def first(self, count: int) -> Pictures:
        """The first `count` of them."""
        return Pictures(**{name: getattr(self, name)[:count] for name in self.__slots__})


def people_path(folder: Path, number: int, size: int = 64) -> Path:
    """The file of one people chunk of the edition with pictures of that size."""
    kind = "frontal-" if EDITIONS[size].level_heads else ""
    return folder / f"people-{kind}{number:05d}.npz"


def pictures_path(folder: Path, people: People, split: str, number: int, size: int = 64) -> Path:
    """The file of one picture chunk; other people give other pictures, and so does another form."""
    who = hashlib.sha256(people.face.tobytes()).hexdigest()[:8]
    kind = "" if size == 64 else f"{size}px-"
    return folder / f"pictures-{PICTURES_FORM}-{kind}{split}-{who}-{number:05d}.npz"


def photos_path(folder: Path, digest: str) -> Path:
    """The file of the people of a folder of photos with that digest."""
    return folder / f"photos-{digest}.npz"


def photos_chunk(folder: Path, photos: Path) -> tuple[str, Counter[str]]:
    """Makes the people of a folder of photos unless they are there.

    Returns:
        The digest that `load_people` takes, and photos left out by reason.

    Raises:
        ValueError: no photo in the folder, or none with a usable face.
    """
    # A machine that trains on a data pack has no OpenCV.
    from infinite_id.faces.loading import load_face_backend
    from infinite_id.training.real_photos import folder_digest, people_of_photos

    digest = folder_digest(photos)
    path = photos_path(folder, digest)
    if path.exists():
        return digest, Counter()
    people, rejects = people_of_photos(photos, PORTRAITS, load_face_backend("embedded"))
    _save_people(path, people)
    return digest, rejects


def people_chunk(folder: Path, number: int, size: int = 64) -> None:
    """Draws the people of one chunk, for the edition of that size, unless the file is there."""
    path = people_path(folder, number, size)
    if path.exists():
        return
    from infinite_id.faces.loading import load_face_backend
    from infinite_id.training.faces_gan import draw_people, load_face_generator

    _one_thread()
    indices = range(number * PEOPLE_CHUNK, (number + 1) * PEOPLE_CHUNK)
    backend = load_face_backend("embedded")
    frontal = EDITIONS[size].level_heads
    drawn = draw_people(indices, PORTRAITS, load_face_generator(), backend, frontal=frontal)
    _save_people(path, list(drawn))


def _save_people(path: Path, people: Sequence[Person]) -> None:
    def stack(read: Callable[[Any], Any]) -> NDArray:
        return np.array([[read(portrait) for portrait in one.portraits] for one in people])

    _save(
        path,
        index=np.array([one.index for one in people]),
        images=stack(lambda p: p.image),
        bbox=stack(lambda p: p.detection.bbox),
        landmarks=stack(lambda p: p.detection.landmarks),
        score=stack(lambda p: p.detection.det_score).astype(np.float32),
        aligned=stack(lambda p: p.aligned),
        face=stack(lambda p: p.face),
    )


def load_people(
    folder: Path, chunks: int, split: str, photos: str | None = None, size: int = 64
) -> People:
    """People of the first `chunks` chunks, and of photos, that belong to the split.

    Args:
        folder: of the data.
        chunks: of synthetic people.
        split: one of `SPLITS`.
        photos: digest of the folder of photos whose people are added.
        size: of the edition whose people they are.
    """
    paths = [people_path(folder, number, size) for number in range(chunks)]
    if photos is not None:
        paths.append(photos_path(folder, photos))
    files = [np.load(path) for path in paths]
    joined = {name: np.concatenate([f[name] for f in files]) for name in People.__slots__}
    return People(**joined).select(split)


def picture_chunk(folder: Path, people: People, split: str, chunk: int, size: int = 64) -> None:
    """Composes one chunk of pictures of those people and that size unless the file is there."""
    path = pictures_path(folder, people, split, chunk, size)
    if path.exists():
        return
    from infinite_id.faces.detection import Detection
    from infinite_id.training.faces_gan import Portrait
    from infinite_id.training.world import compose, compose_pair

    _one_thread()
    rng = np.random.default_rng((11, list(SPLITS).index(split), chunk))
    edition = EDITIONS[size]
    person = rng.integers(len(people.index), size=PICTURE_CHUNK)
    portrait = rng.integers(PORTRAITS, size=PICTURE_CHUNK)
    images, captions, styles, landmarks = [], [], [], []
    other = np.full(PICTURE_CHUNK, -1)

    def face(i: int, k: int) -> Portrait:
        detection = Detection(people.bbox[i, k], people.landmarks[i, k], float(people.score[i, k]))
        return Portrait(people.images[i, k], detection, people.aligned[i, k], people.face[i, k])

    for number, (i, k) in enumerate(zip(person, portrait, strict=True)):
        description = draw_description(rng, edition.photo_share)
        if edition.pair_share and rng.random() < edition.pair_share:
            right = draw_description(rng)
            j = (i + rng.integers(1, max(2, len(people.index)))) % len(people.index)
            faces = (face(i, k), face(j, int(rng.integers(PORTRAITS))))
            made = compose_pair(faces, (description, right), rng, size)
            captions.append(pair_caption(description, right, rng))
            other[number] = j
        else:
            made = compose(face(i, k), description, rng, size)
            captions.append(caption(description, rng))
        images.append(made.image)
        landmarks.append(made.landmarks)
        styles.append(description.style)
    _save(
        path,
        images=np.stack(images),
        person=person,
        portrait=portrait,
        captions=np.array(captions),
        style=np.array(styles),
        landmarks=np.stack(landmarks),
        other=other,
    )


def load_pictures(
    folder: Path, people: People, split: str, chunks: int, size: int = 64
) -> Pictures:
    """The first `chunks` chunks of pictures of those people and that size."""
    paths = [pictures_path(folder, people, split, number, size) for number in range(chunks)]
    files = [np.load(path) for path in paths]
    return Pictures(
        **{name: np.concatenate([f[name] for f in files]) for name in Pictures.__slots__}
    )


def make_chunks(make: Callable[..., None], tasks: Sequence[tuple], workers: int) -> float:
    """Runs `make(*task)` for every task in `workers` processes; seconds that it took."""
    start = time.monotonic()
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            make(*task)
    else:
        # Fork would copy locked thread pools of torch and OpenCV.
        with get_context("spawn").Pool(min(workers, len(tasks))) as pool:
            pool.starmap(make, tasks, chunksize=1)
    return time.monotonic() - start


def _one_thread() -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _save(path: Path, **arrays: NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
