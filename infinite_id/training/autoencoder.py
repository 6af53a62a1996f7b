"""The stage "vae": 64 px pictures to latents 4 x 16 x 16 and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinite_id import pocket
from infinite_id.training.context import (
    Context,
    Stage,
    load_stage,
    on_device,
    pixels_of,
)
from infinite_id.training.loop import LoopConfig
from infinite_id.training.world import FACE_WINDOW

__all__ = ["build_vae_stage", "latents_of"]


def build_vae_stage(context: Context) -> Stage:
    vae = on_device(context, pocket.build_vae())
    images, size = context.pictures.images, 16 * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((1, step, part))
        chosen = images[rng.integers(len(images), size=size)]
        if step % 4:
            # A face costs two fifths of a picture, and is where detail matters.
            chosen = chosen[:, FACE_WINDOW[0], FACE_WINDOW[1]]
        pixels = pixels_of(chosen, context.device) * 2 - 1
        posterior = vae.encode(pixels).latent_dist
        difference = vae.decode(posterior.sample()).sample - pixels
        # Differences of neighbours weigh edges, which eyes and mouths are made of.
        edges = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
        return difference.abs().mean() + edges + 2e-6 * posterior.kl().mean()

    config = LoopConfig(
        learning_rate=1e-3, weight_decay=0.0, ema_decay=0.995, precision=context.precision
    )
    return vae, loss, config


@torch.no_grad()
def latents_of(context: Context, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised posterior means (M, 4, 16, 16), and the mean and deviation of each channel."""
    path = context.state / "latents.safetensors"
    vae: Any = load_stage(context.state, "vae", pocket.build_vae()).to(context.device)
    key = f"{(context.state / 'vae.safetensors').stat().st_mtime_ns}-{len(images)}"
    if path.is_file():
        cached = load_file(path)
        if bytes(cached["key"].tolist()).decode() == key:
            return cached["latents"].to(context.device).float(), cached["mean"], cached["std"]
    parts = [
        vae.encode(pixels_of(images[i : i + 64], context.device) * 2 - 1).latent_dist.mean.half()
        for i in range(0, len(images), 64)
    ]
    latents = torch.cat(parts).float()
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    latents = (latents - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
    latents = latents.contiguous()
    stored = {"mean": mean.cpu(), "std": deviation.cpu(), "latents": latents.half().cpu()}
    save_file({**stored, "key": torch.tensor(list(key.encode()), dtype=torch.uint8)}, path)
    return latents, stored["mean"], stored["std"]
