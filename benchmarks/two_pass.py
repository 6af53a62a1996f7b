"""The obvious implementation of the two streams, as what `two_stream` is measured against.

Each step calls the UNet twice: first the text stream of EVERY picture, whose self-attention layers
leave their keys and values in a dictionary, then the identity stream, which reads them. Nothing is
shared between pictures and nothing is computed ahead: 4 N rows a step with guidance.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.config import SamplerConfig
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.sampler.batch import StreamBatch

__all__ = ["two_pass"]


class _Store:
    """Keys and values of the text pass, and the identity tokens of the second."""

    def __init__(self, tokens: Tensor, adapter: IdentityAdapter) -> None:
        self.tokens, self.adapter = tokens, adapter
        self.personal = False
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}


class _Processor:
    def __init__(self, name: str, store: _Store) -> None:
        self.name, self.store = name.removesuffix(".processor"), store
        self.cross = ".attn2." in name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen)
        store = self.store
        if not self.cross:
            if store.personal:
                text_key, text_value = store.kept[self.name]
                key = torch.cat([_mean_of(key, text_key), text_key], dim=1)
                value = torch.cat([_mean_of(value, text_value), text_value], dim=1)
            else:
                store.kept[self.name] = (key, value)
            out = _attend(query, key, value, attn.heads)
        else:
            out = _attend(query, key, value, attn.heads)
            if store.personal:
                slot = self.name.replace(".", "/")
                own_key = store.adapter.image.to_k[slot](store.tokens)
                own_value = store.adapter.image.to_v[slot](store.tokens)
                out = out + _attend(query, own_key, own_value, attn.heads)
        return attn.to_out[1](attn.to_out[0](out))


def _mean_of(x: Tensor, y: Tensor) -> Tensor:
    return x - x.mean(dim=1, keepdim=True) + y.mean(dim=1, keepdim=True)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@torch.inference_mode()
def two_pass(
    base: BaseModel, adapter: IdentityAdapter, batch: StreamBatch, sampler: SamplerConfig
) -> Tensor:
    """Latents (N, C, h, w): Infinite-ID's defaults on every request of `batch`, guidance on."""
    tokens = [one for one in batch.tokens or () if isinstance(one, Tensor)]  # no groups
    assert batch.null_tokens is not None  # noqa: S101 -- narrows the type
    count = len(tokens)
    store = _Store(torch.stack([batch.null_tokens] * count + list(tokens)), adapter)
    negative = base.encode_negative(batch.negative_prompts)
    positive = base.encode(batch.prompts)
    conditions: dict[str, Any] = {
        "encoder_hidden_states": torch.cat([negative.hidden, positive.hidden]),
        "added_cond_kwargs": {
            "text_embeds": torch.cat([negative.pooled, positive.pooled]),
            "time_ids": base.time_ids(batch.height, batch.width).expand(2 * count, -1),
        },
        "return_dict": False,
    }
    noise = [base.noise(seed, batch.height, batch.width) for seed in batch.seeds]
    schedulers = [base.scheduler(sampler.scheduler, sampler.num_inference_steps) for _ in "ti"]
    text = torch.stack(noise).to(base.device) * schedulers[0].init_noise_sigma
    identity = text.clone()
    scale = batch.guidance_scales[0]

    former = dict(base.unet.attn_processors)
    base.unet.set_attn_processor({name: _Processor(name, store) for name in former})
    try:
        for timestep in schedulers[0].timesteps:
            moved = []
            for personal, latents, scheduler in zip(
                (False, True), (text, identity), schedulers, strict=True
            ):
                store.personal = personal
                rows = (
                    scheduler.scale_model_input(latents, timestep).to(base.dtype).repeat(2, 1, 1, 1)
                )
                without, guided = base.unet(rows, timestep, **conditions)[0].float().chunk(2)
                predicted = without + scale * (guided - without)
                moved.append(scheduler.step(predicted, timestep, latents, return_dict=False)[0])
            text, identity = moved
    finally:
        base.unet.set_attn_processor(former)
    return identity
