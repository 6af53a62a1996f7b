"""A VAE's mean, deviation and factor, there and back."""

from __future__ import annotations

import numpy as np
import torch

from infinite_id.latents import encode_pictures, raw_latents, scaled_latents
from tests.infinite_id.tiny import tiny_pipeline


def test_what_the_unet_sees_is_what_the_vae_encodes_moved_and_scaled() -> None:
    vae = tiny_pipeline().vae
    raw = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(scaled_latents(vae, raw), raw * vae.config.scaling_factor)
    mean, deviation = [0.1, -2.0, 0.0, 3.0], [1.0, 2.0, 0.5, 4.0]
    vae.register_to_config(latents_mean=mean, latents_std=deviation, scaling_factor=0.3)
    scaled = scaled_latents(vae, raw)
    torch.testing.assert_close(scaled[0, 3, 1, 2], (raw[0, 3, 1, 2] - 3.0) / 4.0 * 0.3)
    torch.testing.assert_close(raw_latents(vae, scaled), raw)


def test_many_pictures_are_encoded_as_each_alone() -> None:
    vae = tiny_pipeline().vae
    pictures = list(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))
    found = encode_pictures(vae, pictures)
    assert (found.shape, found.dtype) == ((9, 4, 8, 8), torch.float32)
    torch.testing.assert_close(found[8:], encode_pictures(vae, pictures[8:]))
