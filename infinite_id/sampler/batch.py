"""What is denoised together, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infinite_id.attention.regions import GroupTokens
from infinite_id.base import BaseModel
from infinite_id.control_image import ControlImage
from infinite_id.init_image import InitImage
from infinite_id.regions import check_regions

__all__ = ["DenoisedBatch", "StreamBatch", "check_batch", "check_size"]


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """What is denoised together: N requests of one size.

    Attributes:
        prompts, negative_prompts, seeds: N of each.
        guidance_scales: N; guidance is on where any is above 1.
        tokens: identity tokens of each request, N tensors (T, D), T may differ, or those of a
            group; None for the plain text-to-image model.
        null_tokens: identity tokens of nobody, (T, D); None with `tokens` None.
        height, width: pixels.
        identity_scales: N, in place of `FusionConfig.identity_scale`; None for that one.
        init_images: N, that both streams begin with, None for noise; all begin at one step.
        control_images: N, for the base's ControlNet; None for none.
    """

    prompts: Sequence[str]
    negative_prompts: Sequence[str]
    seeds: Sequence[int]
    guidance_scales: Sequence[float]
    height: int
    width: int
    tokens: Sequence[Tensor | GroupTokens] | None = None
    null_tokens: Tensor | None = None
    identity_scales: Sequence[float] | None = None
    init_images: Sequence[InitImage | None] | None = None
    control_images: Sequence[ControlImage | None] | None = None


@dataclass(frozen=True, slots=True)
class DenoisedBatch:
    """Results: `latents` (N, C, h, w) of the requests; `text_latents` (G, C, h, w) of the text
    streams, None where they did not run to the end; `groups`: the text group of each request."""

    latents: Tensor
    text_latents: Tensor | None
    groups: tuple[int, ...]


# In pixels; a slip of the hand is told before the machine's memory is gone.
_LARGEST_SIDE = 8192


def check_size(base: BaseModel, height: int, width: int) -> None:
    """Raises a ValueError that names the side unless the UNet takes it."""
    # The UNet halves its input once a block transition; the skip connections must fit again.
    factor = base.vae_factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
    for name, value in (("height", height), ("width", width)):
        if not factor <= value <= _LARGEST_SIDE or value % factor:
            raise ValueError(
                f"{name} is {value}, allowed: a multiple of {factor}, at most {_LARGEST_SIDE}"
            )


def check_batch(base: BaseModel, batch: StreamBatch) -> None:
    """Raises a ValueError that names the first value of a batch that cannot be denoised."""
    check_size(base, batch.height, batch.width)
    _check_control(base, batch)
    if batch.tokens is None:
        return
    if batch.null_tokens is None:
        raise ValueError("null_tokens is None, allowed with tokens: identity tokens of nobody")
    width = base.unet.config.cross_attention_dim
    for number, one in enumerate(batch.tokens):
        if isinstance(one, GroupTokens):
            check_regions(one.regions, len(one.tokens), (batch.height, batch.width))
        for tokens in one.tokens if isinstance(one, GroupTokens) else (one,):
            _check_tokens(f"identity tokens of request {number}", tokens, width)


def _check_control(base: BaseModel, batch: StreamBatch) -> None:
    for picture in batch.control_images or ():
        if picture is None:
            continue
        if base.controlnet is None:
            raise ValueError(
                "control_image is given and the model has no ControlNet, allowed with controlnet: "
                "a folder or a hub id"
            )
        picture.check(batch.height, batch.width)
        halved = len(base.controlnet.config.conditioning_embedding_out_channels) - 1
        if 2**halved != base.vae_factor:
            raise ValueError(
                f"controlnet makes pictures {2**halved} times smaller, allowed: "
                f"{base.vae_factor} times, as the base's VAE does"
            )


def _check_tokens(name: str, tokens: Tensor, width: int) -> None:
    if tokens.ndim != 2 or tokens.shape[1] != width or tokens.shape[0] == 0:
        raise ValueError(f"{name} have the shape {tuple(tokens.shape)}, allowed: (T, {width})")
    if not bool(torch.isfinite(tokens).all()):
        raise ValueError(f"{name} hold NaN or infinity, allowed: finite numbers")
