"""The pocket preset's image-text score. It is no CLIP and is not called one.

A small CLIP-architecture model, trained by this project apart from the one that conditions. Its
numbers rank pictures of the pocket's world and cannot be compared with published CLIP scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from eval.judges.pixels import resize_and_crop
from eval.vectors import unit_rows
from infinite_id.pocket.image_text import load_scorer
from infinite_id.pocket.weights import CLIP_MEAN, CLIP_SIZE, CLIP_STD, is_trained

__all__ = ["PocketImageText"]


class PocketImageText:
    """`ImageTextModel` over the pocket scorer, on the CPU."""

    name = "pocket image-text model"

    def __init__(self) -> None:
        self._model, self._tokenizer, self.revision = load_scorer()
        self._mean = torch.tensor(CLIP_MEAN).view(3, 1, 1)
        self._std = torch.tensor(CLIP_STD).view(3, 1, 1)
        self.note = "pocket image-text score, not CLIP"
        if not is_trained():
            self.note += "; untrained weights: the number says nothing"

    @torch.inference_mode()
    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """float32 (N, width), unit L2 norm, of N pictures uint8 (H, W, 3) RGB."""
        pictures = np.stack([resize_and_crop(image, CLIP_SIZE) for image in images])
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        output = self._model.vision_model(pixel_values=(pixels - self._mean) / self._std)
        features = self._model.visual_projection(output.pooler_output)
        return unit_rows(features.float().numpy()).astype(np.float32)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (N, width), unit L2 norm; texts longer than the model reads are cut."""
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        output = self._model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        features = self._model.text_projection(output.pooler_output)
        return unit_rows(features.float().numpy()).astype(np.float32)
