"""Features of the UNet's inner blocks kept from step to step (DeepCache, arXiv 2312.00858).

    whole step:    conv_in, all blocks, conv_out; keeps what enters the last up block
    outer step:    conv_in, first down block, last up block over what was kept, conv_out

What lies between changes slowly from step to step. All rows of a call, of both streams alike, skip
the same blocks. Nothing is put into the model: both calls go over the UNet's own modules, so
threads may share it and there is nothing to undo.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

__all__ = ["Reuse"]


class Reuse:
    """The UNet over the steps of one denoising.

    Args:
        unet: without T2I-Adapter and GLIGEN, as the sampler uses it.
        every: each `every`-th step is computed whole; 1: all are, by the UNet itself.
    """

    def __init__(self, unet: UNet2DConditionModel, every: int) -> None:
        self._unet, self._every = unet, every
        self._kept: Tensor | None = None
        self._kind: object = None
        self._outer_steps = 0
        self._call: Any = _call
        if every > 1 and getattr(unet, "_compiled_call_impl", None) is not None:
            self._call = _compiled_call()

    def __call__(self, kind: object, sample: Tensor, timestep: Tensor, **arguments: Any) -> Tensor:
        """Predictions (B, C, h, w).

        Args:
            kind: of the step; features are kept between steps of equal kind alone.
            sample, timestep, arguments: of the UNet.
        """
        if self._every == 1:
            return self._unet(sample, timestep, **arguments, return_dict=False)[0]
        whole = self._kept is None or kind != self._kind or self._outer_steps + 1 >= self._every
        self._outer_steps = 0 if whole else self._outer_steps + 1
        self._kind = kind
        kept = None if whole else self._kept
        predicted, self._kept = self._call(self._unet, sample, timestep, kept, **arguments)
        return predicted


def _call(
    unet: UNet2DConditionModel,
    sample: Tensor,
    timestep: Tensor,
    kept: Tensor | None,
    encoder_hidden_states: Tensor,
    added_cond_kwargs: dict[str, Tensor],
    cross_attention_kwargs: dict[str, Any] | None = None,
    down_block_additional_residuals: Sequence[Tensor] | None = None,
    mid_block_additional_residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(predictions, what entered the last up block): `UNet2DConditionModel.forward` in short.

    Args:
        unet: the model.
        sample: (B, C, h, w).
        timestep: a number.
        kept: what entered the last up block of an earlier step; None computes all blocks.
        encoder_hidden_states, added_cond_kwargs, cross_attention_kwargs: of the UNet.
        down_block_additional_residuals, mid_block_additional_residual: of a ControlNet.
    """
    model: Any = unet
    hidden = encoder_hidden_states
    emb = model.time_embedding(model.get_time_embed(sample=sample, timestep=timestep), None)
    aug = model.get_aug_embed(
        emb=emb, encoder_hidden_states=hidden, added_cond_kwargs=added_cond_kwargs
    )
    emb = emb if aug is None else emb + aug

    def through(block: Any, x: Tensor, **more: Any) -> Any:
        if getattr(block, "has_cross_attention", False):
            more["encoder_hidden_states"] = hidden
            more["cross_attention_kwargs"] = cross_attention_kwargs
        return block(hidden_states=x, temb=emb, **more)

    x = model.conv_in(sample)
    skips = (x,)
    for block in model.down_blocks[: None if kept is None else 1]:
        x, made = through(block, x)
        skips += made
    if down_block_additional_residuals is not None:
        # Of a part of the blocks, the first ones of them.
        pairs = zip(skips, down_block_additional_residuals, strict=False)
        skips = tuple(skip + added for skip, added in pairs)
    last = model.up_blocks[-1]
    if kept is None:
        x = through(model.mid_block, x)
        if mid_block_additional_residual is not None:
            x = x + mid_block_additional_residual
        for block in model.up_blocks[:-1]:
            count = len(block.resnets)
            x = through(block, x, res_hidden_states_tuple=skips[-count:])
            skips = skips[:-count]
        kept = x
    # Those of the first down block that the last up block takes; its down-sampled one goes inside.
    x = through(last, kept, res_hidden_states_tuple=skips[: len(last.resnets)])
    x = model.conv_act(model.conv_norm_out(x))
    return model.conv_out(x), kept


@lru_cache(maxsize=1)
def _compiled_call() -> Any:
    # When it is wanted: what torch loads for it takes as long as torch itself.
    return torch.compile(_call, fullgraph=True)
