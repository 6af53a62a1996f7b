"""CLIP-T and CLIP-I with OpenCLIP, the scorer of the `sdxl` preset.

The conditioning encoder is ViT-H/14 trained on LAION-2B, SDXL's text encoders are OpenAI's and
LAION's; the one here was trained on DataComp-1B (MIT licence), so that no method is scored by a
network that conditions it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.judges.pixels import resize_and_crop

__all__ = ["ARCHITECTURE", "WEIGHTS", "OpenClip"]

ARCHITECTURE = "ViT-L-14"
WEIGHTS = "datacomp_xl_s13b_b90k"


class OpenClip:
    """`ImageTextModel` over an open_clip model.

    Args:
        architecture: a name that open_clip knows, or ``local-dir:FOLDER`` with
            open_clip_config.json and weights.
        weights: a tag of open_clip's, downloaded once, or the path of a weight file
            (safetensors, or a state dict that `torch.load(weights_only=True)` reads). Not used
            with ``local-dir:``.
        device: of torch.

    Attributes:
        size: side of the square pictures that the model reads, in pixels.

    Raises:
        ImportError: open_clip cannot be imported; the message names the extra.
    """

    name = "OpenCLIP"
    note = "cosine, not multiplied by 100 or 2.5"

    def __init__(
        self,
        architecture: str = ARCHITECTURE,
        weights: str | None = WEIGHTS,
        *,
        device: str = "cpu",
    ) -> None:
        try:
            import open_clip
        # A torchvision built for another torch raises RuntimeError.
        except (ImportError, RuntimeError) as error:
            raise ImportError(
                f"the OpenCLIP scorer cannot be loaded ({error}); install infinite-id-ray[sdxl]"
            ) from error
        self.device = device
        source = None if architecture.startswith("local-dir:") else weights
        model: Any = open_clip.create_model(architecture, pretrained=source, device=self.device)
        self._model = model.eval()
        self._tokenizer = open_clip.get_tokenizer(architecture)
        settings = open_clip.get_model_preprocess_cfg(model)
        size = settings["size"]
        self.size = int(size if isinstance(size, int) else size[0])
        self._mean = torch.tensor(settings["mean"], device=self.device).view(3, 1, 1)
        self._std = torch.tensor(settings["std"], device=self.device).view(3, 1, 1)
        self.revision = f"open_clip:{architecture}" + (f"/{source}" if source else "")

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """float32 (N, width), unit L2 norm, of N pictures uint8 (H, W, 3) RGB."""
        pictures = np.stack([resize_and_crop(image, self.size) for image in images])
        return self.embed_pixels(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)

    @torch.inference_mode()
    def embed_pixels(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """float32 (N, width), unit L2 norm, of float32 (N, 3, size, size) RGB in [0, 1]."""
        scaled = (pixels.to(self.device) - self._mean) / self._std
        features = self._model.encode_image(scaled, normalize=True)
        return np.asarray(features.float().cpu().numpy())

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (N, width), unit L2 norm; texts longer than the model reads are cut."""
        tokens = self._tokenizer(list(texts)).to(self.device)
        features = self._model.encode_text(tokens, normalize=True)
        return np.asarray(features.float().cpu().numpy())
