"""insightface packs: SCRFD detection and ArcFace recognition (512-d), from a folder or its hub.

insightface's own packs may be used for non-commercial research only; what is loaded is said so
when it is downloaded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from infinite_id.faces.alignment import ALIGNED_SIZE
from infinite_id.faces.detection import Detection, check_image
from infinite_id.faces.onnx_files import session_options
from infinite_id.packages import file_digest

__all__ = ["InsightFacePack", "recognition_network"]

logger = logging.getLogger(__name__)

_LEAST_SCORE = 0.5  # of a detection, in [0, 1]

DETECTION, RECOGNITION = "detection", "recognition"


class InsightFacePack:
    """`FaceBackend` over an insightface pack.

    Args:
        name_or_folder: pack name such as "antelopev2", or a folder with its ONNX files (also one
            folder deeper, as some archives nest them).
        root: insightface's root; packs lie under `<root>/models`. `~/.insightface` by default.
        providers: onnxruntime execution providers; CUDA before CPU by default.
        threads: of each network on the CPU.

    Raises:
        ValueError: the folder is missing or empty, the pack cannot be downloaded, or a network
            is lacking; the message says which.
    """

    def __init__(
        self,
        name_or_folder: str,
        *,
        root: str | Path | None = None,
        providers: Sequence[str] | None = None,
        threads: int = 1,
    ) -> None:
        folder = _pack_folder(name_or_folder, root)
        models = _load_networks(folder, providers, threads)
        self.name = folder.name
        self._detector, self._recogniser = models[DETECTION], models[RECOGNITION]
        self._detector.prepare(0, input_size=(640, 640), det_thresh=_LEAST_SCORE)
        self.face_width = int(self._recogniser.output_shape[-1])
        digests = (file_digest(model.model_file)[:8] for model in models.values())
        self.revision = f"{self.name}-{'-'.join(digests)}"

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Faces of uint8 (H, W, 3) RGB at its own scale, best score first."""
        check_image(image)
        # Square, as in SCRFD's training, and few different sizes: each costs insightface memory.
        side = -(-max(image.shape[:2]) // 32) * 32
        size = self._detector.static_input_size or (side, side)
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        boxes, points = self._detector.detect(bgr, input_size=size)
        if points is None or not len(boxes):
            return []
        order = np.argsort(-boxes[:, 4], kind="stable")
        return [
            Detection(
                boxes[k, :4].astype(np.float32), points[k].astype(np.float32), float(boxes[k, 4])
            )
            for k in order
        ]

    def embed(self, aligned: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (N, face_width), unit L2 norm, of uint8 (N, 112, 112, 3) RGB aligned faces."""
        size = ALIGNED_SIZE
        if aligned.dtype != np.uint8 or aligned.ndim != 4 or aligned.shape[1:] != (size, size, 3):
            raise ValueError(
                f"faces are {aligned.dtype} {aligned.shape}, allowed: uint8 (N, {size}, {size}, 3)"
            )
        if not len(aligned):
            return np.empty((0, self.face_width), dtype=np.float32)
        # One at a time: some packs fix the batch at 1.
        features = np.concatenate(
            [self._recogniser.get_feat(np.ascontiguousarray(face[:, :, ::-1])) for face in aligned]
        ).astype(np.float32)
        return features / np.linalg.norm(features, axis=1, keepdims=True)


def recognition_network(name_or_folder: str, *, threads: int = 1) -> Any:
    """insightface's own object of a pack's recognition network, on the CPU.

    Args:
        name_or_folder: see `InsightFacePack`.
        threads: of the network.

    Raises:
        ValueError: as `InsightFacePack`.
    """
    folder = _pack_folder(name_or_folder, None)
    return _load_networks(folder, ["CPUExecutionProvider"], threads)[RECOGNITION]


def _pack_folder(name_or_folder: str, root: str | Path | None) -> Path:
    given = Path(name_or_folder).expanduser()
    if given.is_dir():
        return _with_networks(given)
    if given.is_absolute() or len(given.parts) != 1:
        raise ValueError(f"face backend folder {name_or_folder!r} does not exist")
    packs = Path(root or "~/.insightface").expanduser()
    installed = packs / "models" / name_or_folder
    if not installed.is_dir():
        _download(name_or_folder, packs)
    return _with_networks(installed)


def _with_networks(folder: Path) -> Path:
    for candidate in (folder, folder / folder.name):
        if any(candidate.glob("*.onnx")):
            return candidate
    raise ValueError(f"face backend folder {str(folder)!r} holds no .onnx file")


def _download(name: str, packs: Path) -> None:
    from insightface.utils.storage import ensure_available

    logger.warning(
        "downloading insightface pack %s: its models may be used for NON-COMMERCIAL research "
        "purposes only",
        name,
    )
    try:
        ensure_available("models", name, root=str(packs))
    except Exception as error:  # requests, zipfile and RuntimeError, by insightface's version
        raise ValueError(
            f"face backend is {name!r}, which is neither 'embedded' nor a folder, and could not be "
            f"downloaded as an insightface pack ({type(error).__name__})"
        ) from error


def _load_networks(folder: Path, providers: Sequence[str] | None, threads: int) -> dict[str, Any]:
    from insightface.model_zoo import get_model

    available = onnxruntime.get_available_providers()
    preferred = ("CUDAExecutionProvider", "CPUExecutionProvider")
    chosen = list(providers) if providers is not None else [p for p in preferred if p in available]
    for provider in chosen:
        if provider not in available:
            raise ValueError(
                f"onnxruntime provider is {provider!r}, allowed here: {', '.join(available)}"
            )
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.onnx")):
        model = get_model(str(path), providers=chosen, sess_options=session_options(threads))
        task = getattr(model, "taskname", None)
        if task in (DETECTION, RECOGNITION):
            found.setdefault(task, model)
    for task in (DETECTION, RECOGNITION):
        if task not in found:
            raise ValueError(f"face backend folder {str(folder)!r} holds no {task} network")
    return {task: found[task] for task in (DETECTION, RECOGNITION)}
