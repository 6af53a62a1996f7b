"""Attention of both streams in one batch (METHOD section 3).

The processors hold no weights and no state of a request. What a call needs travels with the call,
as `cross_attention_kwargs={"streams": StreamContext(...)}`; without it a layer does what it always
did. So two requests on one model do not disturb each other, and `install` is undone exactly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from infinite_id.config import FusionConfig
from infinite_id.fusion import KeyValue, fuse

__all__ = [
    "StreamAttnProcessor",
    "StreamContext",
    "cross_attention_layers",
    "install",
    "self_attention_layers",
]


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What the attention layers need to know of one UNet call.

    Attributes:
        fusion: how the identity rows take from the text rows.
        text_rows: the first rows of the batch, the text streams; 0 for none.
        source: int64 (identity rows,): the text row that feeds each identity row.
        text: K'_t, V'_t of each cross-attention layer, each (text texts, L, C), of which identity
            rows take `source`; None where the identity rows see no text.
        identity: K'_id, V'_id of each cross-attention layer, each (identity rows, T, C), already
            normalised towards the text's; None where there is no identity.
        identity_mask: bool (identity rows, 1, 1, T), False for padding; None for no padding.
        active: whether the step lies in the range where fusion acts.
    """

    fusion: FusionConfig
    text_rows: int
    source: Tensor
    text: Sequence[KeyValue] | None
    identity: Sequence[KeyValue] | None
    identity_mask: Tensor | None = None
    active: bool = True


def _names(unet: UNet2DConditionModel, kind: str) -> list[str]:
    return [name.removesuffix(".processor") for name in unet.attn_processors if f".{kind}." in name]


def cross_attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """Module names of the cross-attention layers in the UNet's own order: 70 in SDXL."""
    return _names(unet, "attn2")


def self_attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """Module names of the self-attention layers in the UNet's own order: 70 in SDXL."""
    return _names(unet, "attn1")


class StreamAttnProcessor:
    """Attention of one layer.

    Args:
        index: number of the layer among its kind.
        count: number of layers of its kind.
        cross: whether it is cross-attention.
    """

    def __init__(self, index: int, count: int, cross: bool) -> None:
        self.index = index
        self.position = (index + 0.5) / count
        self.cross = cross
        self._plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        streams: StreamContext | None = None,
    ) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        if streams is None:
            return self._plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if self.cross:
            out = self._cross(attn, hidden_states, encoder_hidden_states, streams)
        else:
            out = self._self(attn, hidden_states, streams)
        return attn.to_out[1](attn.to_out[0](out))

    def _self(self, attn: Attention, hidden: Tensor, streams: StreamContext) -> Tensor:
        query, key, value = attn.to_q(hidden), attn.to_k(hidden), attn.to_v(hidden)
        first, last = streams.fusion.layers
        acts = streams.active and first <= self.position <= last
        alone = not streams.text_rows or hidden.shape[0] == streams.text_rows
        if alone or streams.fusion.fusion == "none" or not acts:
            return _attend(query, key, value, attn.heads)
        cut = streams.text_rows
        text = _attend(query[:cut], key[:cut], value[:cut], attn.heads)
        fused = fuse(
            KeyValue(key[streams.source], value[streams.source]),
            KeyValue(key[cut:], value[cut:]),
            streams.fusion.fusion,
            streams.fusion.self_norm,
        )
        identity = _attend(query[cut:], fused.key, fused.value, attn.heads)
        return torch.cat([text, identity])

    def _cross(
        self, attn: Attention, hidden: Tensor, encoded: Tensor | None, streams: StreamContext
    ) -> Tensor:
        query, cut = attn.to_q(hidden), streams.text_rows
        parts = []
        if cut:
            texts = self._texts(attn, encoded, streams)
            parts.append(_attend(query[:cut], texts.key[:cut], texts.value[:cut], attn.heads))
        rest = query[cut:]
        if rest.shape[0] == 0:
            return parts[0]
        out: Tensor | None = None
        if streams.text is not None and streams.fusion.text_cross_attention:
            texts = streams.text[self.index]
            out = _attend(rest, texts.key[streams.source], texts.value[streams.source], attn.heads)
        if streams.identity is not None and streams.fusion.identity_scale != 0:
            own = streams.identity[self.index]
            seen = _attend(rest, own.key, own.value, attn.heads, streams.identity_mask)
            seen = seen * streams.fusion.identity_scale
            out = seen if out is None else out + seen
        parts.append(torch.zeros_like(rest) if out is None else out)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _texts(self, attn: Attention, encoded: Tensor | None, streams: StreamContext) -> KeyValue:
        if streams.text is not None:
            return streams.text[self.index]
        return KeyValue(attn.to_k(encoded), attn.to_v(encoded))


def _attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for (B, L, C) inputs."""
    split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)]
    out = F.scaled_dot_product_attention(*split, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


@contextlib.contextmanager
def install(unet: UNet2DConditionModel) -> Iterator[None]:
    """Gives every attention layer a `StreamAttnProcessor`; on leaving, the former ones are back.

    Raises:
        ValueError: a layer is of a kind that SDXL's architecture does not have.
    """
    former = dict(unet.attn_processors)
    unet.set_attn_processor(stream_processors(unet))
    try:
        yield
    finally:
        unet.set_attn_processor(former)


def stream_processors(unet: UNet2DConditionModel) -> dict[str, StreamAttnProcessor]:
    """A processor for every attention layer, by the names of `unet.attn_processors`.

    Raises:
        ValueError: a layer is neither self- nor cross-attention of a transformer block.
    """
    numbers = {
        name: (index, len(names), cross)
        for names, cross in ((_names(unet, "attn1"), False), (_names(unet, "attn2"), True))
        for index, name in enumerate(names)
    }
    processors = {}
    for name in unet.attn_processors:
        layer = name.removesuffix(".processor")
        if layer not in numbers:
            raise ValueError(
                f"attention layer is {layer!r}, allowed: attn1 and attn2 of transformer blocks, "
                "as in SDXL"
            )
        processors[name] = StreamAttnProcessor(*numbers[layer])
    return processors
