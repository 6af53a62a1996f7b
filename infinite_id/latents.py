"""Between pixels and the latents that a UNet sees: a VAE's own mean, deviation and factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["encode_pictures", "picture_moments", "raw_latents", "scaled_latents"]

# Somebody may have hundreds of photos, of 1024 px each.
_ENCODED_AT_ONCE = 8


def raw_latents(vae: Any, scaled: Tensor) -> Tensor:
    """What the VAE decodes, of latents (B, C, h, w) as the UNet sees them."""
    mean, deviation = _moments(vae, scaled)
    return scaled / vae.config.scaling_factor * deviation + mean


def scaled_latents(vae: Any, raw: Tensor) -> Tensor:
    """What the UNet sees, of latents (B, C, h, w) as the VAE encodes them."""
    mean, deviation = _moments(vae, raw)
    return (raw - mean) / deviation * vae.config.scaling_factor


def _moments(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, (1, C, 1, 1); 0 and 1 where a VAE names none."""
    channels, view = vae.config.latent_channels, (1, -1, 1, 1)
    mean = vae.config.latents_mean or [0.0] * channels
    deviation = vae.config.latents_std or [1.0] * channels
    return like.new_tensor(mean).view(view), like.new_tensor(deviation).view(view)


def encode_pictures(vae: Any, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Latents (B, C, h, w), float32, as the UNet sees them: the means of what the VAE encodes.

    Args:
        vae: on any device, in any precision.
        pictures: uint8 (H, W, 3) of one size.
    """
    return scaled_latents(vae, picture_moments(vae, pictures)[0]).float()


@torch.no_grad()
def picture_moments(vae: Any, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (B, C, h, w) each, of the latents that the VAE encodes pictures as.

    Args:
        vae: on any device, in any precision.
        pictures: uint8 (H, W, 3) of one size.
    """
    parts = []
    for first in range(0, len(pictures), _ENCODED_AT_ONCE):
        part = torch.from_numpy(np.stack(pictures[first : first + _ENCODED_AT_ONCE]))
        pixels = part.permute(0, 3, 1, 2).to(vae.device, vae.dtype)
        parts.append(vae.encode(pixels / 127.5 - 1).latent_dist)
    return torch.cat([one.mean for one in parts]), torch.cat([one.std for one in parts])
