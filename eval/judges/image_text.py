"""Image-text models that score: one protocol, one loader, the pocket preset's own model.

A text score is the cosine of a picture's and a text's features in one space, an image score the
cosine of two pictures' features (CLIP-T and CLIP-I where the model is a CLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ImageTextModel",
    "load_image_text",
]


@runtime_checkable
class ImageTextModel(Protocol):
    """Features of pictures and texts in one space. One thread at a time."""

    name: str
    revision: str
    note: str

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """float32 (N, width), unit L2 norm, of N pictures uint8 (H, W, 3) RGB."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (N, width), unit L2 norm."""
        ...


def load_image_text(
    preset_name: str, *, device: str = "cpu", folder: str | None = None
) -> ImageTextModel:
    """The model that scores a preset; never one that conditions it.

    Args:
        preset_name: "pocket", or one that begins with "sdxl".
        device: of torch, for OpenCLIP.
        folder: of an OpenCLIP model in place of the preset's.

    Raises:
        ImportError: the preset's scorer needs the extra ``infinite-id-ray[sdxl]``.
        ValueError: no such preset.
    """
    if folder is not None:
        from eval.judges.open_clip import OpenClip

        return OpenClip(f"local-dir:{folder}", device=device)
    if preset_name == "pocket":
        from eval.judges.pocket_score import PocketImageText

        return PocketImageText()
    if preset_name.startswith("sdxl"):
        from eval.judges.open_clip import OpenClip

        return OpenClip(device=device)
    raise ValueError(f"preset is {preset_name!r}, allowed: pocket, sdxl")
