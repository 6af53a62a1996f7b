"""The faces in a photo of people: what every command that is given photos calls.

The photo may lie on its side or head (`infinite_id.faces.upright`), and a face whose eyes the
border cuts is refused. A face that is small in a large photo is looked for at finer scales, tile
by tile, where nothing else was found; each place found is looked at again as a photo of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from infinite_id.faces.detection import (
    Detection,
    FaceBackend,
    FaceError,
    FaceSelection,
    check_image,
    choose_faces,
)
from infinite_id.faces.upright import check_eyes, find_upright_faces, turned_back

__all__ = ["photo_faces"]

Picture = NDArray[np.uint8]
Found = list[tuple[Detection, Picture]]

# Long sides in pixels that every photo is looked at with.
_SIZES = (640, 320, 1280)
# Width of a face that a detector sees nearly always (docs/faces.md).
_SEEN = 32
# Side of a tile in pixels of the finer scale, and what neighbours share: a face wider than half of
# it was found at the scale before.
_TILE, _SHARED = 1280, 128
# Quarters that a photo is turned by, where it shows nobody as it is.
_TURNS = (1, 2, 3)
# Side of what is looked at again, in widths of the face.
_AROUND = 4.0


def photo_faces(
    image: Picture,
    backend: FaceBackend,
    *,
    select: FaceSelection = "single",
    min_face: float = 20.0,
    finer: bool = True,
) -> Found:
    """The chosen faces of one photo, each with its aligned crop, left to right as seen upright.

    Boxes and landmarks are in pixels of `image`; `Detection.turned` tells the turn.

    Args:
        image: uint8 (H, W, 3) RGB.
        backend: from `load_face_backend`.
        select: as of `find_faces`. Eyes at the border refuse a chosen face, but none of "all".
        min_face: shorter side of a face's box in pixels of `image`.
        finer: whether a photo without a face is searched at finer scales, down to `min_face`. It
            takes seconds for a photo of a camera: not for strangers' requests.

    Raises:
        FaceError: "no_face", "several_faces", "face_too_small", "face_index", "cut_off".
        ValueError: wrong picture or selection.
    """
    check_image(image)
    try:
        found = find_upright_faces(image, backend, select=select, min_face=min_face, sizes=_SIZES)
    except FaceError as error:
        looks = finer and error.reason == "no_face"
        small = _small_faces(image, backend, min_face) if looks else []
        if not small:
            raise
        chosen = choose_faces([face for face, _ in small], select)
        found = [pair for pair in small if any(pair[0] is face for face in chosen)]
    if select != "all":
        for face, _ in found:
            check_eyes(image, face)
    return found


def _small_faces(image: Picture, backend: FaceBackend, min_face: float) -> Found:
    """Faces at the first finer scale that shows one, left to right."""
    longest = max(image.shape[:2])
    # Beyond four times its size a photo shows no more: smaller faces are not looked for.
    finest = min(round(longest * _SEEN / min_face), 4 * longest)
    sizes = [max(_SIZES)]
    while sizes[-1] < finest:
        sizes.append(min(2 * sizes[-1], finest))
    # The other turns at one scale alone: at all they would take four times as long.
    looks = [(size, 0) for size in sizes[1:]] + [
        (size, turn) for size in sizes[1:2] for turn in _TURNS
    ]
    for size, turns in looks:
        found = _at_scale(np.ascontiguousarray(np.rot90(image, turns)), backend, size, min_face)
        if found:
            return [(turned_back(face, turns, *image.shape[:2]), crop) for face, crop in found]
    return []


def _at_scale(image: Picture, backend: FaceBackend, size: int, min_face: float) -> Found:
    """Faces of the photo made `size` pixels long, left to right."""
    found: Found = []
    for spot in _spots(image, backend, size / max(image.shape[:2])):
        again = _looked_at(image, backend, spot, min_face)
        if again is not None and not any(_same(again[0], face) for face, _ in found):
            found.append(again)
    return sorted(found, key=lambda pair: float(pair[0].bbox[0] + pair[0].bbox[2]))


def _spots(image: Picture, backend: FaceBackend, factor: float) -> Iterator[Detection]:
    """What the detector takes for faces in the photo made `factor` times as large."""
    height, width = image.shape[:2]
    side, step = round(_TILE / factor), round((_TILE - _SHARED) / factor)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    for top in range(0, max(1, height - (side - step)), step):
        for left in range(0, max(1, width - (side - step)), step):
            part = image[top : top + side, left : left + side]
            shape = (max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor)))
            scaled = cv2.resize(part, shape, interpolation=method)
            for face in backend.detect(np.asarray(scaled, dtype=np.uint8)):
                yield _moved(face.scaled(1 / factor), left, top)


def _looked_at(
    image: Picture, backend: FaceBackend, spot: Detection, min_face: float
) -> tuple[Detection, Picture] | None:
    """The face there, found again in a part of the photo that is hardly more than it."""
    centre = spot.bbox.reshape(2, 2).mean(axis=0)
    reach = _AROUND / 2 * float(np.ptp(spot.bbox.reshape(2, 2), axis=0).max())
    left, top = (max(0, int(value)) for value in centre - reach)
    right, bottom = (max(1, int(value)) for value in centre + reach)
    part = np.ascontiguousarray(image[top:bottom, left:right])
    if not part.size:
        return None
    try:
        found = find_upright_faces(part, backend, select="all", min_face=min_face, sizes=_SIZES[:2])
    except FaceError:
        return None
    for face, crop in found:
        moved = _moved(face, left, top)
        if _same(moved, spot):
            return moved, crop
    return None


def _moved(face: Detection, x: float, y: float) -> Detection:
    shift = np.array([x, y], dtype=np.float32)
    return replace(face, bbox=face.bbox + np.tile(shift, 2), landmarks=face.landmarks + shift)


def _same(one: Detection, other: Detection) -> bool:
    """Whether their centres are nearer than half a face."""
    apart = (one.bbox - other.bbox).reshape(2, 2).mean(axis=0)
    return float(np.hypot(*apart)) < max(one.size, other.size) / 2
