"""Attention of both streams in one batch (docs/method.md).

The processors hold no weights and no state of a request. What a call needs travels with the call,
as `cross_attention_kwargs={"streams": StreamContext(...)}`; without it a layer does what it always
did. So two requests on one model do not disturb each other, and `install` is undone exactly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from infinite_id.attention.fusion import KeyValue, fuse
from infinite_id.attention.kernels import attend
from infinite_id.attention.lora import AttentionLora
from infinite_id.attention.regions import RegionRows
from infinite_id.config import AttentionKind, FusionConfig

__all__ = [
    "StreamAttnProcessor",
    "StreamContext",
    "attention_layers",
    "cross_attention_layers",
    "install",
    "self_attention_layers",
    "stream_processors",
]


_PARTS = ("down_blocks", "mid_block", "up_blocks")


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What the attention layers need to know of one UNet call.

    Attributes:
        fusion: how the identity rows take from the text rows.
        text_rows: the first rows of the batch, the text streams; 0 for none.
        source: int64 (identity rows,): the text row that feeds each identity row.
        in_order: whether row i of the identities is fed by text row i, so that nothing need be
            gathered.
        text: K'_t, V'_t of each cross-attention layer, each (texts, L, C); None where the
            identity rows see no text.
        identity: K'_id, V'_id of each cross-attention layer, each (identities, T, C), already
            normalised towards the text's; None where there is no identity.
        identity_source: int64 (identity rows,): the row of `identity` that each identity row
            sees; None: row i sees row i. With `regions`, of each pair of a row and a person.
        identity_mask: bool (identities, 1, 1, T), False for padding; None for no padding.
        identity_text: as `text`, as the identity rows see it, where a `lora` makes that differ.
        lora: update of the projections of identity rows.
        unfused_rows: the first identity rows, which fusion leaves alone.
        active: whether the step lies in the range where fusion acts.
        identity_scale: (identity rows, 1, 1) in place of the fusion's own, where rows differ.
        regions: where the people of groups are seen; None where every row sees one person.
        kept: K_t, V_t of the self-attention layers by name, each (text rows, L, C): a call with
            text rows writes them, one without reads them; None where every call has text rows.
    """

    fusion: FusionConfig
    text_rows: int
    source: Tensor
    text: Sequence[KeyValue] | None
    identity: Sequence[KeyValue] | None
    identity_source: Tensor | None = None
    identity_mask: Tensor | None = None
    identity_text: Sequence[KeyValue] | None = None
    lora: AttentionLora | None = None
    unfused_rows: int = 0
    active: bool = True
    identity_scale: Tensor | None = None
    regions: RegionRows | None = None
    in_order: bool = False
    kept: dict[str, KeyValue] | None = None

    @property
    def lora_scale(self) -> float | Tensor:
        """The update fades in with the identity, so that scale 0 is the base model."""
        if self.identity_scale is not None:
            return self.identity_scale.clamp(0.0, 1.0)
        return min(max(self.fusion.identity_scale, 0.0), 1.0)

    def of_texts(self, rows: Tensor, first: int = 0) -> Tensor:
        """What feeds the identity rows from `first` on, of `rows` (text rows, ...)."""
        return rows[first:] if self.in_order else rows[self.source[first:]]


def _names(unet: UNet2DConditionModel, kind: str) -> list[str]:
    return [name for name in attention_layers(unet) if name.endswith(f".{kind}")]


def attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """Module names of all attention layers in the UNet's own order: 140 in SDXL."""
    return [name.removesuffix(".processor") for name in unet.attn_processors]


def cross_attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """Module names of the cross-attention layers in the UNet's own order: 70 in SDXL."""
    return _names(unet, "attn2")


def self_attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """Module names of the self-attention layers in the UNet's own order: 70 in SDXL."""
    return _names(unet, "attn1")


class StreamAttnProcessor:
    """Attention of one layer.

    Args:
        name: module name of the layer.
        index: number of the layer among its kind, in the UNet's own order.
        position: of the layer among its kind by depth, in (0, 1).
        cross: whether it is cross-attention.
        kind: kernel of self-attention.
    """

    def __init__(
        self,
        name: str,
        index: int,
        position: float,
        cross: bool,
        kind: AttentionKind = "sdpa",
    ) -> None:
        self.name = name
        self.index = index
        self.position = position
        self.cross = cross
        self.kind: AttentionKind = kind
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
        return attn.to_out[1](self._project(attn, "to_out", out, streams))

    def _project(
        self, attn: Attention, projection: str, hidden: Tensor, streams: StreamContext
    ) -> Tensor:
        linear = attn.to_out[0] if projection == "to_out" else getattr(attn, projection)
        out = linear(hidden)
        if streams.lora is None or hidden.shape[0] == streams.text_rows:
            return out
        scale, first = streams.lora_scale, streams.text_rows
        return streams.lora.add(self.name, projection, hidden, out, first, scale)

    def _self(self, attn: Attention, hidden: Tensor, streams: StreamContext) -> Tensor:
        query, key, value = (
            self._project(attn, name, hidden, streams) for name in ("to_q", "to_k", "to_v")
        )
        shallowest, deepest = streams.fusion.layers
        fuses = streams.fusion.fusion != "none" and shallowest <= self.position <= deepest
        texts = self._text_stream(key, value, streams) if fuses else None
        # Rows up to `cut` attend to themselves: the text streams, and unfused identity rows.
        cut = streams.text_rows + streams.unfused_rows
        if texts is None or not streams.active or hidden.shape[0] == cut:
            return attend(query, key, value, attn.heads, kind=self.kind)
        first = streams.unfused_rows
        fused = fuse(
            KeyValue(*(streams.of_texts(one, first) for one in texts)),
            KeyValue(key[cut:], value[cut:]),
            streams.fusion.fusion,
            streams.fusion.self_norm,
        )
        parts = []
        if cut:
            parts.append(attend(query[:cut], key[:cut], value[:cut], attn.heads, kind=self.kind))
        parts.append(attend(query[cut:], fused.key, fused.value, attn.heads, kind=self.kind))
        return torch.cat(parts)

    def _text_stream(self, key: Tensor, value: Tensor, streams: StreamContext) -> KeyValue | None:
        """K_t, V_t of the call's text rows, or those kept; None where there are neither."""
        kept, rows = streams.kept, streams.text_rows
        if not rows:
            return None if kept is None else kept[self.name]
        own = KeyValue(key[:rows], value[:rows])
        if kept is not None:
            # Copies: a slice would hold the identity rows' memory too.
            kept[self.name] = KeyValue(own.key.clone(), own.value.clone())
        return own

    def _cross(
        self, attn: Attention, hidden: Tensor, encoded: Tensor | None, streams: StreamContext
    ) -> Tensor:
        query, cut = self._project(attn, "to_q", hidden, streams), streams.text_rows
        parts = []
        if cut:
            texts = self._texts(attn, encoded, streams)
            parts.append(attend(query[:cut], texts.key[:cut], texts.value[:cut], attn.heads))
        rest = query[cut:]
        if rest.shape[0] == 0:
            return parts[0]
        out: Tensor | None = None
        if streams.text is not None and streams.fusion.text_cross_attention:
            texts = (streams.identity_text or streams.text)[self.index]
            key, value = streams.of_texts(texts.key), streams.of_texts(texts.value)
            out = attend(rest, key, value, attn.heads)
        scale: Tensor | float = streams.fusion.identity_scale
        if streams.identity_scale is not None:
            scale = streams.identity_scale
        if streams.identity is not None and (isinstance(scale, Tensor) or scale):
            own, mask = streams.identity[self.index], streams.identity_mask
            rows = streams.identity_source
            if rows is not None:
                own = KeyValue(own.key[rows], own.value[rows])
                mask = None if mask is None else mask[rows]
            regions = streams.regions
            asking = rest if regions is None else rest[regions.rows]
            seen = attend(asking, own.key, own.value, attn.heads, mask)
            if regions is not None:
                seen = regions.joined(seen, rest)
            if isinstance(scale, Tensor) or scale != 1:
                seen = seen * scale
            out = seen if out is None else out + seen
        parts.append(torch.zeros_like(rest) if out is None else out)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _texts(self, attn: Attention, encoded: Tensor | None, streams: StreamContext) -> KeyValue:
        if streams.text is not None:
            return streams.text[self.index]
        return KeyValue(attn.to_k(encoded), attn.to_v(encoded))


@contextlib.contextmanager
def install(
    unet: UNet2DConditionModel, processors: Mapping[str, StreamAttnProcessor] | None = None
) -> Iterator[None]:
    """Gives every attention layer a `StreamAttnProcessor`; on leaving, the former ones are back.

    Args:
        unet: the model.
        processors: of an earlier `stream_processors(unet)`; the same objects each time keep
            compiled code valid. Made here by default.

    Raises:
        ValueError: a layer is of a kind that SDXL's architecture does not have.
    """
    former = dict(unet.attn_processors)
    # `set_attn_processor` empties the dictionary that it is given.
    unet.set_attn_processor(dict(processors) if processors else stream_processors(unet))
    try:
        yield
    finally:
        unet.set_attn_processor(former)


def stream_processors(
    unet: UNet2DConditionModel, kind: AttentionKind = "sdpa"
) -> dict[str, StreamAttnProcessor]:
    """A processor for every attention layer, by the names of `unet.attn_processors`.

    Args:
        unet: the model.
        kind: kernel of self-attention.

    Raises:
        ValueError: a layer is neither self- nor cross-attention of a transformer block.
    """
    numbers: dict[str, tuple[int, float, bool]] = {}
    for names, cross in ((_names(unet, "attn1"), False), (_names(unet, "attn2"), True)):
        # The UNet lists its middle last; data pass it between the ways down and up.
        deep = sorted(names, key=lambda name: _PARTS.index(name.partition(".")[0]))
        for index, name in enumerate(names):
            numbers[name] = (index, (deep.index(name) + 0.5) / len(names), cross)
    processors = {}
    for layer in attention_layers(unet):
        if layer not in numbers:
            raise ValueError(
                f"attention layer is {layer!r}, allowed: attn1 and attn2 of transformer blocks, "
                "as in SDXL"
            )
        processors[f"{layer}.processor"] = StreamAttnProcessor(layer, *numbers[layer], kind)
    return processors
