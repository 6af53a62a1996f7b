"""People from a folder of photos, for whoever mixes real people into the pocket world.

`--photos DIR` of the training program: a sub-folder is a person with its photos, a file a person
with one. A photo becomes a portrait as the synthetic ones are: 64 px around one clear face, checked
by the same rules. The shipped weights never saw one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infinite_id.faces.detection import FaceBackend, FaceError
from infinite_id.faces.photo_faces import photo_faces
from infinite_id.faces.photos import PhotoError, decode_photo
from infinite_id.faces.upright import stand_upright
from infinite_id.training.faces_gan import FACE_SIZE, Person, Portrait, accept

__all__ = ["FIRST_INDEX", "folder_digest", "people_of_photos"]

FIRST_INDEX = 1_000_000_005
"""Indices of people from photos begin here; synthetic people's lie far below. The remainder by 20
decides the split: of a few people all are trained on, of more every fourth is held out."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
# Side of the square cut from a photo, in widths of the face's box: hair and chin are inside, as in
# the synthetic portraits, whose boxes are 0.69 of their side on average.
CROP_SIDE = 1.45
VIEW_TRIES = 8


def folder_digest(folder: Path) -> str:
    """Sixteen hexadecimal digits that change with any photo's name or bytes.

    Raises:
        ValueError: `folder` is no folder or holds no photo.
    """
    digest = hashlib.sha256()
    for name, files in _people(folder):
        for file in files:
            digest.update(f"{name}/{file.name}".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def people_of_photos(
    folder: Path, portraits: int, backend: FaceBackend
) -> tuple[list[Person], Counter[str]]:
    """The people of a folder, each with that many portraits, and why photos were left out.

    Someone with fewer usable photos gets augmented views of them: turned by a few degrees, moved,
    scaled, lit otherwise.

    Args:
        folder: see the module.
        portraits: of each person.
        backend: the face networks that check, the embedded ones.

    Returns:
        People in the order of their names, and the number of photos left out by reason: those of
        `PhotoError` and `FaceError`, and "not_clear" where the cut face did not pass.

    Raises:
        ValueError: no photo in the folder, or none with a usable face; one sentence.
    """
    people: list[Person] = []
    rejects: Counter[str] = Counter()
    for number, (_, files) in enumerate(_people(folder)):
        rng = np.random.default_rng((13, number))
        found: list[tuple[NDArray[np.uint8], NDArray[np.float32]]] = []
        kept: list[Portrait] = []
        for file in files:
            try:
                image = decode_photo(file.read_bytes())
                face, _ = photo_faces(image, backend)[0]
            except (PhotoError, FaceError) as error:
                rejects[error.reason] += 1
                continue
            image, face = stand_upright(image, face)
            portrait = accept(_cut(image, face.bbox), backend)
            if portrait is None:
                rejects["not_clear"] += 1
                continue
            found.append((image, face.bbox))
            kept.append(portrait)
        kept = kept[:portraits]
        for view in range(VIEW_TRIES * portraits if found else 0):
            if len(kept) == portraits:
                break
            image, bbox = found[view % len(found)]
            portrait = accept(_cut(image, bbox, rng), backend)
            if portrait is not None:
                kept.append(portrait)
        if len(kept) == portraits:
            people.append(Person(FIRST_INDEX + number, tuple(kept)))
    if not people:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejects.items()))
        raise ValueError(
            f"photos {folder} gave nobody ({reasons}), allowed: photos with one clear face"
        )
    return people, rejects


def _people(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """(name, photos) of every person, in the order of the names."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    found = 0
    for entry in entries:
        inside = sorted(entry.iterdir()) if entry.is_dir() else [entry]
        files = [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
        if files:
            found += 1
            yield entry.name, files
    if not found:
        raise ValueError(
            f"photos {folder} holds no photo, allowed: a folder with {', '.join(sorted(SUFFIXES))}"
        )


def _cut(
    image: NDArray[np.uint8],
    bbox: NDArray[np.float32],
    rng: np.random.Generator | None = None,
) -> NDArray[np.uint8]:
    """uint8 (64, 64, 3): the square around a face; with `rng` another view of it."""
    side = CROP_SIDE * float(bbox[2] - bbox[0])
    centre = (bbox[:2] + bbox[2:]) / 2
    turn, gain = 0.0, np.ones(3)
    if rng is not None:
        side *= rng.uniform(0.94, 1.08)
        centre = centre + rng.uniform(-0.04, 0.04, 2) * side
        turn = rng.uniform(-8, 8)
        gain = rng.uniform(0.8, 1.15) * rng.uniform(0.96, 1.04, 3)
    x, y = (float(value) for value in centre)
    scale = FACE_SIZE / side
    matrix = np.asarray(cv2.getRotationMatrix2D((x, y), turn, scale), np.float64)
    matrix[:, 2] += FACE_SIZE / 2 - np.array([x, y])
    # Shrunk first: warping alone would alias what is many times larger.
    factor = min(1.0, 2 * scale)
    if factor < 1:
        image = np.asarray(
            cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8
        )
        matrix[:, :2] = matrix[:, :2] / factor
    cut = cv2.warpAffine(
        image,
        matrix,
        (FACE_SIZE, FACE_SIZE),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.clip(np.round(cut * gain), 0, 255).astype(np.uint8)
