"""How people like a picture, as networks guess it: an aesthetic score and HPSv2.

Neither file is shipped. The aesthetic predictor v2.5 is a small head over SigLIP, by the package
aesthetic-predictor-v2-5 (AGPL-3.0: install it yourself); HPSv2 (Wu et al. 2023, Apache-2.0) is an
OpenCLIP ViT-H/14 tuned on choices between pictures, its score the cosine of picture and prompt.
HPSv2 sees whole pictures: the longer side is resized to the network's, the rest is black.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from infinite_id.packages import file_digest

__all__ = ["AestheticPredictor", "HPSv2"]

Pictures = Sequence[NDArray[np.uint8]]
_ENCODER = "google/siglip-so400m-patch14-384"
_HPS_ARCHITECTURE = "ViT-H-14"


class AestheticPredictor:
    """Aesthetic scores, about 1 to 10.

    Args:
        address: the head's .pth file.
        encoder: SigLIP: a folder, or a model of the hub.
        device: of torch.

    Raises:
        ImportError: the package is missing.
        ValueError: no such file, or the encoder cannot be had.
    """

    name = "aesthetic-predictor-v2.5"

    def __init__(self, address: str, *, encoder: str = _ENCODER, device: str = "cpu") -> None:
        path = _existing("aesthetic", address)
        try:
            from aesthetic_predictor_v2_5 import convert_v2_5_from_siglip
        except ImportError as error:
            raise ImportError(
                "judge aesthetic needs the package aesthetic-predictor-v2-5, which cannot be "
                f"imported ({error}); pip install aesthetic-predictor-v2-5"
            ) from None
        try:
            model, self._prepare = convert_v2_5_from_siglip(
                predictor_name_or_path=str(path),
                encoder_model_name=encoder,
                low_cpu_mem_usage=True,
                trust_remote_code=False,
            )
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"judge aesthetic is {address!r}, which does not load: {reason}"
            ) from error
        self._model: Any = model.to(device).eval()
        self._device = device
        self.revision = f"aesthetic-v2.5-{file_digest(path)[:8]}"

    @torch.inference_mode()
    def score(self, images: Pictures) -> NDArray[np.float32]:
        """float32 (N,) of N pictures uint8 (H, W, 3) RGB."""
        pictures = [Image.fromarray(image) for image in images]
        pixels = self._prepare(images=pictures, return_tensors="pt").pixel_values
        logits = self._model(pixels.to(self._device)).logits
        return np.asarray(logits.float().cpu().numpy(), dtype=np.float32).reshape(-1)


class HPSv2:
    """Human preference scores v2 or v2.1: cosines, some 0.2 to 0.35.

    Args:
        address: the checkpoint.
        device: of torch.
        architecture: of OpenCLIP.

    Raises:
        ImportError: open_clip cannot be imported; the message names the extra.
        ValueError: no such file, or it is no checkpoint of this network.
    """

    name = "HPSv2 (OpenCLIP ViT-H/14)"

    def __init__(
        self, address: str, *, device: str = "cpu", architecture: str = _HPS_ARCHITECTURE
    ) -> None:
        from eval.judges.open_clip import OpenClip

        path = _existing("hpsv2", address)
        try:
            self._model = OpenClip(architecture, str(path), device=device)
        except ImportError:
            raise
        except Exception as error:  # torch's, pickle's and open_clip's own, by version
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"judge hpsv2 is {address!r}, which does not load: {reason}"
            ) from error
        self.revision = f"hpsv2-{path.stem}-{file_digest(path)[:8]}"

    def score(self, images: Pictures, prompts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (N,) of N pictures uint8 (H, W, 3) RGB with their prompts."""
        pixels = torch.stack([_whole(image, self._model.size) for image in images])
        pictures, texts = self._model.embed_pixels(pixels), self._model.embed_texts(prompts)
        return np.asarray((pictures * texts).sum(axis=1), dtype=np.float32)


def _whole(image: NDArray[np.uint8], size: int) -> torch.Tensor:
    """float32 (3, size, size) RGB, about [0, 1]: a picture uint8 (H, W, 3) in the middle of black.

    HPSv2 resizes after the change to floats: bicubic, with antialiasing, not rounded or cut.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    height, width = (max(1, round(side * size / max(image.shape[:2]))) for side in image.shape[:2])
    if (height, width) != image.shape[:2]:
        pixels = functional.interpolate(
            pixels, (height, width), mode="bicubic", align_corners=False, antialias=True
        )
    left, top = (size - width) // 2, (size - height) // 2
    around = (left, size - width - left, top, size - height - top)
    return functional.pad(pixels, around)[0]


def _existing(judge: str, address: str) -> Path:
    path = Path(address)
    if not path.is_file():
        raise ValueError(f"judge {judge} is {address!r}, which is no file, allowed: its weights")
    return path
