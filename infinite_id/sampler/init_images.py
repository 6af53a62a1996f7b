"""Latents that rows begin with: noise, or a noised picture; and what a mask keeps of it.

Random numbers are drawn as diffusers draws them, one generator a row: of a row with a picture first
the VAE's sample of it, then the noise. So a seed gives what diffusers' pipelines give with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.init_image import InitImage, first_step
from infinite_id.latents import picture_moments, scaled_latents

__all__ = ["Kept", "begin", "check_init_images"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What masks keep of the pictures.

    Attributes:
        picture, noise: (N, C, h, w).
        mask: (N, 1, h, w), 1 where a row is made anew, everywhere of rows without a mask.
    """

    picture: Tensor
    noise: Tensor
    mask: Tensor

    def into(self, latents: Tensor, scheduler: Any, timestep: Tensor | None) -> Tensor:
        """`latents` (N, C, h, w) with the pictures, as noisy as they are, where masks are 0.

        Args:
            latents: after a step.
            scheduler: that made the step.
            timestep: of the next one; None after the last.
        """
        picture = self.picture
        if timestep is not None:
            picture = scheduler.add_noise(picture, self.noise, timestep[None])
        return (1 - self.mask) * picture + self.mask * latents


def check_init_images(
    base: BaseModel, pictures: Sequence[InitImage | None] | None, size: tuple[int, int], steps: int
) -> None:
    """Raises a ValueError that names the first picture of a batch that cannot be begun with.

    Args:
        base: the text-to-image model.
        pictures: one a row; None: of nobody.
        size: (height, width) in pixels.
        steps: of denoising.
    """
    given = [one for one in pictures or () if one is not None]
    channels = base.unet.config.in_channels
    if given and channels != base.pipeline.vae.config.latent_channels:
        raise ValueError(
            f"the base's UNet takes {channels} channels, allowed with image: one of text to image, "
            f"which takes {base.pipeline.vae.config.latent_channels}"
        )
    for picture in given:
        picture.check(*size, steps)
        mask, factor = picture.mask_image, base.vae_factor
        if mask is not None and not mask[::factor, ::factor].any():
            raise ValueError(
                f"mask_image has {int(mask.sum())} white pixels and reaches no latent pixel, "
                f"allowed: one that covers a square of {factor} px"
            )
    if len({first_step(one, steps) for one in pictures or ()}) > 1:
        raise ValueError("pictures of one batch begin at different steps, allowed: one for all")


def begin(
    base: BaseModel,
    scheduler: Any,
    seeds: Sequence[int],
    size: tuple[int, int],
    pictures: Sequence[InitImage | None],
    timestep: Tensor,
) -> tuple[Tensor, Kept | None]:
    """Latents (N, C, h, w), float32, of the first step, and what masks keep; None without masks.

    Args:
        base: whose VAE and noise.
        scheduler: with its timesteps set, and its first step where pictures begin.
        seeds: one a row.
        size: (height, width) in pixels.
        pictures: one a row, or None for a row of noise.
        timestep: of the first step.
    """
    if all(one is None for one in pictures):
        noise = torch.stack([base.noise(seed, *size) for seed in seeds]).to(base.device)
        return noise * scheduler.init_noise_sigma, None
    shape = base.noise(0, *size).shape
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    encoded = _encoded(base, generators, pictures, shape)
    noise = torch.stack(
        [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators]
    ).to(base.device)
    noised = scheduler.add_noise(encoded, noise, timestep[None])
    # diffusers takes pure noise for inpainting at strength 1, and the noised picture without mask.
    pure = [one is None or (one.mask_image is not None and one.strength == 1) for one in pictures]
    from_noise = torch.tensor(pure, device=base.device).view(-1, 1, 1, 1)
    latents = torch.where(from_noise, noise * scheduler.init_noise_sigma, noised)
    if all(one is None or one.mask_image is None for one in pictures):
        return latents, None
    masks = torch.stack([_mask(one, base.vae_factor, shape) for one in pictures])
    return latents, Kept(encoded, noise, masks.to(base.device))


def _encoded(
    base: BaseModel,
    generators: Sequence[torch.Generator],
    pictures: Sequence[InitImage | None],
    shape: torch.Size,
) -> Tensor:
    """Samples of what the VAE makes of the pictures; zeros where there is none. Equal pictures are
    encoded once."""
    distinct: dict[str, InitImage] = {}
    keys = [
        None if one is None else distinct.setdefault(one.digest, one).digest for one in pictures
    ]
    with base.precise_vae() as vae:
        mean, deviation = picture_moments(vae, [one.image for one in distinct.values()])
        place = {key: number for number, key in enumerate(distinct)}
        rows = []
        for key, generator in zip(keys, generators, strict=True):
            if key is None:
                rows.append(torch.zeros(shape, device=base.device))
                continue
            drawn = torch.randn(shape, generator=generator, dtype=torch.float32).to(mean)
            raw = mean[place[key]] + deviation[place[key]] * drawn
            rows.append(scaled_latents(vae, raw[None])[0].float().to(base.device))
    return torch.stack(rows)


def _mask(picture: InitImage | None, factor: int, shape: torch.Size) -> Tensor:
    """(1, h, w): the pixel in the upper left corner of each latent pixel, as diffusers takes it."""
    if picture is None or picture.mask_image is None:
        return torch.ones(1, *shape[1:])
    return torch.from_numpy(picture.mask_image[::factor, ::factor].copy()).float()[None]
