"""Faces in photos that lie: turned by 90, 180 or 270 degrees, or tilted.

A detector finds faces that stand on their head, with a good score and with landmarks that are
wrong, so that the aligned crop shows nobody. What tells: in a right crop the detector finds the
face AGAIN, with a higher score than in a wrong one (docs/faces.md has the figures). So a crop is
believed at once where that score is high; else the photo is tried in its four turns and the turn
with the highest score is taken. A tilted face is aligned a second time, from a level view of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from infinite_id.faces.detection import (
    ALIGNED_SIZE,
    ARCFACE_TEMPLATE,
    Detection,
    FaceBackend,
    FaceError,
    FaceErrorReason,
    FaceSelection,
    align_face,
    find_faces,
    similarity_transform,
)

__all__ = ["check_eyes", "find_upright_faces", "stand_upright", "turned_back"]

Found = list[tuple[Detection, NDArray[np.uint8]]]

# Side of the enlarged crop in which the face is looked for again.
_VIEW = 224
# Believed at once: no wrong turn of 31 photos reached it, 27 of 31 right ones did.
_BELIEVED = 0.90
# A turn is taken for another where it scores higher by this.
_GAP = 0.01
# A face tilted by more degrees is aligned a second time.
_LEVEL = 15.0
# Part of the distance between the eyes that an eye keeps from the border: below, the cosine to the
# whole face is 0.15 to 0.77.
_BORDER = 0.08
# Side of the level view for that, and of the face's template in it.
_CONTEXT, _INNER = 320, 160


def find_upright_faces(
    image: NDArray[np.uint8],
    backend: FaceBackend,
    *,
    select: FaceSelection = "single",
    min_face: float = 20.0,
    sizes: Sequence[int] = (640, 320, 1280),
    gap: float = _GAP,
    level: bool = True,
) -> Found:
    """`find_faces` of a photo that may lie on its side or its head.

    Boxes and landmarks are in pixels of `image` as it is given; "left to right" is as seen
    upright. `Detection.turned` tells the turn.

    Args:
        image, backend, select, min_face, sizes: as of `find_faces`.
        gap: by which the score of a turn must be higher than that of the photo as it is.
        level: whether tilted faces are aligned a second time.

    Raises:
        FaceError, ValueError: as `find_faces`.
    """
    height, width = image.shape[:2]
    # Not the error: with this frame, which has the photo, it would be kept until Python looks for
    # such circles.
    refused: tuple[FaceErrorReason, str] | None = None
    best: Found = []
    highest = -1.0
    for turns in range(4):
        view = np.ascontiguousarray(np.rot90(image, turns))
        try:
            found = find_faces(view, backend, select=select, min_face=min_face, sizes=sizes)
        except FaceError as error:
            if turns == 0:
                refused = error.reason, str(error)
                highest = _score_of_refused(view, backend, error, min_face, sizes)
                if highest >= _BELIEVED:
                    raise
            continue
        if level:
            found = [_levelled(view, backend, face, crop) for face, crop in found]
        score = _score_of_largest(backend, found)
        if score > highest + (gap if turns else 0.0):
            highest = score
            best = [(turned_back(face, turns, height, width), crop) for face, crop in found]
        if turns == 0 and score >= _BELIEVED:
            break
    if refused is not None and not best:
        raise FaceError(*refused)
    return best


def check_eyes(image: NDArray[np.uint8], face: Detection) -> None:
    """Raises a FaceError, "cut_off", where the picture's border cuts an eye off.

    Args:
        image: uint8 (H, W, 3).
        face: in pixels of `image`.
    """
    height, width = image.shape[:2]
    eyes = face.landmarks[:2]
    apart = float(np.hypot(*(eyes[1] - eyes[0])))
    inside = np.minimum(eyes, np.array([width - 1, height - 1]) - eyes).min()
    if inside < _BORDER * apart:
        raise FaceError("cut_off", "the border of the picture cuts the face off at the eyes")


def stand_upright(image: NDArray[np.uint8], face: Detection) -> tuple[NDArray[np.uint8], Detection]:
    """The photo turned so that a face of `find_upright_faces` stands, and the face in its pixels.

    Args:
        image: uint8 (H, W, 3).
        face: in pixels of `image`.
    """
    if not face.turned:
        return image, face
    turns = face.turned // 90
    turned = np.ascontiguousarray(np.rot90(image, turns))
    height, width = turned.shape[:2]
    return turned, turned_back(face, 4 - turns, height, width)


def _score_of_refused(
    view: NDArray[np.uint8],
    backend: FaceBackend,
    error: FaceError,
    min_face: float,
    sizes: Sequence[int],
) -> float:
    """What another turn must surpass: a lying face may look like two, an upright group is one."""
    if error.reason == "no_face":
        return -1.0
    if error.reason != "several_faces":
        return 1.0
    found = find_faces(view, backend, select="largest", min_face=min_face, sizes=sizes)
    return _score_of_largest(backend, found)


def _score_of_largest(backend: FaceBackend, found: Found) -> float:
    _, crop = max(found, key=lambda pair: pair[0].size)
    view = cv2.resize(crop, (_VIEW, _VIEW), interpolation=cv2.INTER_CUBIC)
    again = backend.detect(np.asarray(view, dtype=np.uint8))
    return max((face.det_score for face in again), default=0.0)


def _levelled(
    image: NDArray[np.uint8], backend: FaceBackend, face: Detection, crop: NDArray[np.uint8]
) -> tuple[Detection, NDArray[np.uint8]]:
    """The face with its landmarks found again in a level view, where it is tilted."""
    dx, dy = face.landmarks[1] - face.landmarks[0]
    if abs(np.degrees(np.arctan2(dy, dx))) <= _LEVEL:
        return face, crop
    scale, shift = _INNER / ALIGNED_SIZE, (_CONTEXT - _INNER) / 2
    matrix = similarity_transform(face.landmarks, ARCFACE_TEMPLATE * scale + np.float32(shift))
    view = cv2.warpAffine(image, matrix, (_CONTEXT, _CONTEXT))
    centre = np.full(2, _CONTEXT / 2)
    near = [
        again
        for again in backend.detect(np.asarray(view, dtype=np.uint8))
        if np.hypot(*(again.landmarks.mean(axis=0) - centre)) < _INNER / 2
    ]
    if not near:
        return face, crop
    inverse = np.linalg.inv(matrix[:, :2])
    landmarks = ((near[0].landmarks - matrix[:, 2]) @ inverse.T).astype(np.float32)
    better = replace(face, landmarks=landmarks)
    return better, align_face(image, landmarks)


def turned_back(face: Detection, turns: int, height: int, width: int) -> Detection:
    """A face of `np.rot90(image, turns)` in pixels of `image`.

    Args:
        face: there; what it was turned by counts too.
        turns: quarters of a turn.
        height, width: of `image`.
    """
    corners = face.bbox.reshape(2, 2)
    points = np.concatenate([corners, face.landmarks])
    x, y = points[:, 0], points[:, 1]
    back = (
        (x, y),
        (width - 1 - y, x),
        (width - 1 - x, height - 1 - y),
        (y, height - 1 - x),
    )[turns]
    points = np.stack(back, axis=1).astype(np.float32)
    box = np.concatenate([points[:2].min(axis=0), points[:2].max(axis=0)])
    turned = (face.turned + 90 * turns) % 360
    return replace(face, bbox=box, landmarks=points[2:], turned=turned)
