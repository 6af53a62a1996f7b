"""Faces in photos: detection, selection, 5-point alignment (docs/faces.md).

A `FaceBackend` finds faces and embeds aligned ones; `find_faces` looks at a picture as it
is, `infinite_id.faces.photo_faces` at photos that people bring.
Landmarks are warped to the ArcFace template at 112 px by the least-squares similarity transform
(Umeyama 1991): `y = s R x + t`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from infinite_id.faces.alignment import ALIGNED_SIZE, ARCFACE_TEMPLATE, similarity_transform

__all__ = [
    "Detection",
    "FaceBackend",
    "FaceError",
    "FaceErrorReason",
    "FaceSelection",
    "align_face",
    "check_image",
    "choose_faces",
    "find_faces",
]

# Bilinear warping skips pixels where it shrinks by more than this.
MAX_SHRINK = 2.0


FaceSelection = Literal["single", "largest", "all"] | int


FaceErrorReason = Literal["no_face", "several_faces", "face_too_small", "face_index", "cut_off"]


class FaceError(ValueError):
    """A picture that does not hold the face asked for; `reason` is a stable code."""

    def __init__(self, reason: FaceErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason: FaceErrorReason = reason

    def __reduce__(self) -> tuple[type[FaceError], tuple[FaceErrorReason, str]]:
        # Exceptions with two arguments do not survive pickling between workers on their own.
        return type(self), (self.reason, str(self))


@dataclass(frozen=True, slots=True)
class Detection:
    """One face in pixels of the picture it was found in.

    Attributes:
        bbox: float32 (4,), x0 y0 x1 y1; may reach over the picture's edge.
        landmarks: float32 (5, 2), x y: eyes left to right as seen in the picture, nose, mouth
            corners left to right.
        det_score: confidence in [0, 1].
        turned: degrees counter-clockwise by which the picture had to be turned for the face to
            stand upright: 0, 90, 180 or 270; see `infinite_id.faces.upright`.
    """

    bbox: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    det_score: float
    turned: int = 0

    @property
    def size(self) -> float:
        """The shorter side of the box in pixels."""
        x0, y0, x1, y1 = self.bbox
        return float(min(x1 - x0, y1 - y0))

    def scaled(self, factor: float) -> Detection:
        """The same face in a picture `factor` times as large."""
        scale = np.float32(factor)
        return replace(self, bbox=self.bbox * scale, landmarks=self.landmarks * scale)


@runtime_checkable
class FaceBackend(Protocol):
    """A face detector with a recognition network. One thread at a time."""

    name: str
    revision: str
    """Names the networks and their versions; part of every cached embedding's key."""
    face_width: int

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Faces of one picture, uint8 (H, W, 3) RGB, at the scale given, best score first."""
        ...

    def embed(self, aligned: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (N, face_width), unit L2 norm, of N faces uint8 (N, 112, 112, 3) RGB."""
        ...


def find_faces(
    image: NDArray[np.uint8],
    backend: FaceBackend,
    *,
    select: FaceSelection = "single",
    min_face: float = 20.0,
    sizes: Sequence[int] = (640, 320, 1280),
) -> list[tuple[Detection, NDArray[np.uint8]]]:
    """The chosen faces of one picture, each with its aligned crop, left to right.

    The picture is scaled so that its long side is `sizes[0]`, and again with the next size where
    no face was found: small pictures are scaled up (64 px pictures hold faces 28 px wide), large
    ones down. Boxes and landmarks are in pixels of `image`; the crop is warped from `image`.

    Args:
        image: uint8 (H, W, 3) RGB.
        backend: from `load_face_backend`.
        select: "single" refuses several faces; "largest" takes the largest box; "all"; a number
            counts from 0, left to right.
        min_face: shorter side of a face's box in pixels of `image`; smaller ones are passed over.
        sizes: long sides in pixels to try, in this order.

    Returns:
        (detection, uint8 (112, 112, 3) RGB) pairs, at least one.

    Raises:
        FaceError: "no_face", "several_faces", "face_too_small", "face_index".
        ValueError: wrong picture, selection or sizes.
    """
    check_image(image)
    if not (select in ("single", "largest", "all") or type(select) is int):
        raise ValueError(f"select is {select!r}, allowed: single, largest, all, or a number")
    if not sizes or min(sizes) < 32:
        raise ValueError(f"sizes is {tuple(sizes)}, allowed: numbers of 32 or more")
    found = _detect(image, backend, sizes)
    if not found:
        height, width = image.shape[:2]
        raise FaceError("no_face", f"no face found in the {width} x {height} px picture")
    faces = [face for face in found if face.size >= min_face]
    if not faces:
        largest = max(face.size for face in found)
        raise FaceError(
            "face_too_small",
            f"the largest face is {largest:.0f} px wide, at least {min_face:g} px are needed",
        )
    faces.sort(key=lambda face: float(face.bbox[0] + face.bbox[2]))
    chosen = choose_faces(faces, select)
    return [(face, align_face(image, face.landmarks)) for face in chosen]


def align_face(image: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 (112, 112, 3): the face warped to `ARCFACE_TEMPLATE`, black outside the picture.

    A face more than twice the template's size is shrunk by area averaging before it is warped:
    bilinear warping alone skips pixels, and the noise of large photos then costs similarity.

    Args:
        image: uint8 (H, W, 3), any channel order.
        landmarks: float (5, 2), x y in pixels of `image`.

    Raises:
        ValueError: the landmarks coincide or are not finite.
    """
    matrix = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    shrink = 1 / float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if shrink > MAX_SHRINK:
        image, matrix = _shrunk(image, matrix, shrink)
    warped = cv2.warpAffine(image, matrix, (ALIGNED_SIZE, ALIGNED_SIZE))
    return np.asarray(warped, dtype=np.uint8)


def check_image(image: NDArray[np.uint8]) -> None:
    """Raises a ValueError unless `image` is uint8 (H, W, 3) with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"picture is {image.dtype} {image.shape}, allowed: uint8 (H, W, 3)")


def _detect(
    image: NDArray[np.uint8], backend: FaceBackend, sizes: Sequence[int]
) -> list[Detection]:
    height, width = image.shape[:2]
    for size in dict.fromkeys(sizes):
        factor = size / max(height, width)
        shape = (max(1, round(width * factor)), max(1, round(height * factor)))
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        scaled = image if factor == 1 else cv2.resize(image, shape, interpolation=method)
        found = backend.detect(np.asarray(scaled, dtype=np.uint8))
        if found:
            return [face.scaled(1 / factor) for face in found]
    return []


def _shrunk(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], shrink: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of `image` that the crop shows, `shrink` times smaller, and its own `matrix`."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * ALIGNED_SIZE
    seen = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    x0, y0 = np.clip(np.floor(seen.min(axis=0) - shrink), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(seen.max(axis=0) + shrink), 0, (width, height)).astype(int)
    if x0 >= x1 or y0 >= y1:
        return image, matrix
    size = (max(1, round((x1 - x0) / shrink)), max(1, round((y1 - y0) / shrink)))
    part = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    # Pixel centres: x = x0 + (x' + 1/2) f - 1/2.
    factor = np.array([(x1 - x0) / size[0], (y1 - y0) / size[1]])
    origin = np.array([x0, y0]) + factor / 2 - 0.5
    shift = matrix[:, :2] @ origin + matrix[:, 2]
    moved = np.hstack([matrix[:, :2] * factor, shift[:, None]])
    return np.asarray(part, dtype=np.uint8), moved


def choose_faces(faces: list[Detection], select: FaceSelection) -> list[Detection]:
    """Those of the faces, left to right, that `select` of `find_faces` means.

    Raises:
        FaceError: "several_faces", "face_index".
    """
    if select == "all":
        return faces
    if select == "largest":
        return [max(faces, key=lambda face: face.size)]
    if select == "single":
        if len(faces) > 1:
            raise FaceError(
                "several_faces",
                f"{len(faces)} faces found, one is allowed; choose one by its number from the left",
            )
        return faces
    index = int(select)
    if not 0 <= index < len(faces):
        raise FaceError(
            "face_index", f"face number {index} asked for, allowed: 0 to {len(faces) - 1}"
        )
    return [faces[index]]
