"""What is denoised together, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infinite_id.attention.regions import GroupTokens
from infinite_id.base import BaseModel
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


def _check_tokens(name: str, tokens: Tensor, width: int) -> None:
    if tokens.ndim != 2 or tokens.shape[1] != width or tokens.shape[0] == 0:
        raise ValueError(f"{name} have the shape {tuple(tokens.shape)}, allowed: (T, {width})")
    if not bool(torch.isfinite(tokens).all()):
        raise ValueError(f"{name} hold NaN or infinity, allowed: finite numbers")
