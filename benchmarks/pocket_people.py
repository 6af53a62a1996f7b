"""People for judging the pocket model: held-out synthetic ones, and insightface's photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.judges.facenet import FaceNet
from infinite_id.faces.detection import Detection, FaceBackend, FaceSelection, find_faces
from infinite_id.identity.encoders import IdentityEncoder
from infinite_id.training.dataset import SPLITS
from infinite_id.training.faces_gan import Person, draw_people, load_face_generator
from infinite_id.types import Identity

__all__ = [
    "JudgedPerson",
    "drawn_people",
    "find_face",
    "judged_people",
    "real_people",
    "synthetic_people",
]


@dataclass(frozen=True, slots=True)
class JudgedPerson:
    """One person.

    Attributes:
        identity: what a generator sees.
        reference: float32 (512,), unit norm, FaceNet's; of other pictures where there are any,
            else of the very photo that a generator sees.
        faces: float32 (K, 512), unit norm, FaceNet's of each of those pictures.
    """

    identity: Identity
    reference: NDArray[np.float32]
    faces: NDArray[np.float32]


def find_face(
    picture: NDArray[np.uint8], backend: FaceBackend, select: FaceSelection = "largest"
) -> Detection:
    """The face of a pocket picture: all benchmarks look for it in the same way.

    Args:
        picture: uint8 (S, S, 3) RGB, of a face some half as wide.
        backend: from `load_face_backend`.
        select: as in `find_faces`.

    Raises:
        FaceError: as `find_faces`.
    """
    found = find_faces(picture, backend, select=select, min_face=16, sizes=(256, 192, 320))
    return found[0][0]


def drawn_people(count: int, backend: FaceBackend, split: str = "test") -> Iterator[Person]:
    """The first `count` people of a split with three pictures each.

    Raises:
        ValueError: `split` is not one of `SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, allowed: {', '.join(SPLITS)}")
    indices = (i for i in range(10**6) if i % 20 in SPLITS[split])
    return islice(draw_people(indices, 3, load_face_generator(), backend), count)


def synthetic_people(
    count: int, encoder: IdentityEncoder, judge: FaceNet, split: str = "test"
) -> list[JudgedPerson]:
    """The first `count` people of a split: one picture conditions, two others judge."""
    return judged_people(drawn_people(count, encoder.faces, split), encoder, judge)


def judged_people(
    drawn: Iterable[Person], encoder: IdentityEncoder, judge: FaceNet
) -> list[JudgedPerson]:
    """People of `drawn_people`: the first picture conditions, the others judge."""
    people = []
    for person in drawn:
        given, *others = person.portraits
        reference = judge.embed([p.image for p in others], [p.detection for p in others])
        people.append(_person(str(person.index), given.aligned, reference, encoder))
    return people


def real_people(encoder: IdentityEncoder, judge: FaceNet) -> list[JudgedPerson]:
    """The seven people in the photos of insightface; one photo each, so it judges as well."""
    package = find_spec("insightface")
    if package is None or package.origin is None:
        raise ValueError("package insightface is not installed, its photos are needed")
    folder = Path(package.origin).parent / "data/images"
    people = []
    for name in ("t1.jpg", "Tom_Hanks_54745.png"):
        photo = np.asarray(Image.open(folder / name).convert("RGB"))
        found: list[tuple[Detection, NDArray[np.uint8]]] = find_faces(
            photo, encoder.faces, select="all"
        )
        for number, (face, aligned) in enumerate(found):
            reference = judge.embed([photo], [face])
            people.append(_person(f"{name}-{number}", aligned, reference, encoder))
    return people


def _person(
    key: str,
    aligned: NDArray[np.uint8],
    references: NDArray[np.float32],
    encoder: IdentityEncoder,
) -> JudgedPerson:
    mean = references.mean(axis=0)
    identity = Identity(key, (aligned,), encoder.embed([aligned]))
    return JudgedPerson(identity, (mean / np.linalg.norm(mean)).astype(np.float32), references)
