"""The pocket model: SDXL's architecture at a size that a laptop's CPU runs, shipped with the code.

Everything is built from the classes that the large model uses: AutoencoderKL (factor 4, latents
4 x 16 x 16 at 64 px), two CLIP text encoders (penultimate hidden states, widths 96 + 160 = 256;
pooled projection of the second, 160), UNet2DConditionModel with SDXL's "text_time" conditioning,
DDIM on v-prediction; the image tower of a small CLIP for the identity stream (65 tokens x 192);
and a second CLIP, trained apart, that only scores pictures.

Weights lie in `assets/pocket` as half precision safetensors, listed with their SHA-256 in
`manifest.json`. Without that file the networks are built with random weights from a fixed seed:
`is_trained()` tells which, and `revision()` names it.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from infinite_id.pocket.image_text import (
    build_clip,
    build_scorer,
    load_clip_image_encoder,
    load_scorer,
    load_tokenizer,
    no_bars,
    seeded,
    text_config,
    vision_tower,
)
from infinite_id.pocket.weights import (
    ADAPTERS,
    CLIP_MEAN,
    CLIP_SIZE,
    CLIP_STD,
    EDITIONS,
    POCKET_DIR,
    SCHEDULER,
    TEXT_1,
    TEXT_2,
    Edition,
    PocketWeightsError,
    adapter_path,
    check_files,
    is_trained,
    revision,
    shipped_size,
)

__all__ = [
    "ADAPTERS",
    "CLIP_MEAN",
    "CLIP_SIZE",
    "CLIP_STD",
    "EDITIONS",
    "POCKET_DIR",
    "Edition",
    "PocketWeightsError",
    "adapter_path",
    "build_clip",
    "build_scheduler",
    "build_scorer",
    "build_text_encoder",
    "build_unet",
    "build_vae",
    "is_trained",
    "load_clip_image_encoder",
    "load_pipeline",
    "load_scorer",
    "load_tokenizer",
    "revision",
    "shipped_size",
    "vision_tower",
]


def load_pipeline(dtype: torch.dtype = torch.float32) -> StableDiffusionXLPipeline:
    """The base model: text to 64 px portraits, on the CPU, in eval mode, progress bar off.

    Raises:
        PocketWeightsError: a shipped file's SHA-256 differs from the manifest.
    """
    if is_trained():
        check_files("base/")
        with no_bars(diffusers.utils.logging):
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                POCKET_DIR / "base", dtype=dtype, local_files_only=True, add_watermarker=False
            )
    else:
        networks: dict[str, Any] = {
            "vae": build_vae(),
            "text_encoder": build_text_encoder(first=True),
            "text_encoder_2": build_text_encoder(first=False),
            "unet": build_unet(),
        }
        for network in networks.values():
            torch.nn.Module.to(network, dtype)
        pipeline = StableDiffusionXLPipeline(
            **networks,
            tokenizer=load_tokenizer(),
            tokenizer_2=load_tokenizer(),
            scheduler=build_scheduler(),
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_unet(size: int | None = None) -> UNet2DConditionModel:
    """The UNet with random weights from the fixed seed.

    Args:
        size: of pictures, of `EDITIONS`: 64 has latents (B, 4, 16, 16), 96 (B, 8, 12, 12). None:
            that of the shipped weights.
    """
    edition = EDITIONS[size or shipped_size()]
    return seeded(lambda: UNet2DConditionModel(**edition.unet))


def build_vae(size: int | None = None) -> AutoencoderKL:
    """The autoencoder with random weights; pictures (B, 3, S, S) in [-1, 1].

    Args:
        size: S, as of `build_unet`.
    """
    edition = EDITIONS[size or shipped_size()]
    return seeded(lambda: AutoencoderKL(**edition.vae))


def build_scheduler() -> DDIMScheduler:
    """DDIM, v-prediction, SDXL's noise schedule."""
    return DDIMScheduler(**SCHEDULER)


def build_text_encoder(*, first: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    """One of the two text encoders with random weights, input ids (B, 64)."""
    if first:
        return seeded(lambda: CLIPTextModel(text_config(TEXT_1)))
    return seeded(lambda: CLIPTextModelWithProjection(text_config(TEXT_2)), offset=1)
