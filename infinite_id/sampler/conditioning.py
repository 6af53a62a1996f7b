"""What the rows of the UNet see: texts and identities, made once a batch and not once a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from infinite_id.attention.fusion import KeyValue, normalise
from infinite_id.attention.layout import StreamLayout, group_texts
from infinite_id.attention.lora import AttentionLora
from infinite_id.attention.processors import StreamContext, cross_attention_layers
from infinite_id.attention.regions import GroupTokens, RegionRows, group_maps, region_rows
from infinite_id.base import BaseModel, TextEmbeddings
from infinite_id.config import FusionConfig
from infinite_id.identity.adapter import StreamAdapter
from infinite_id.sampler.batch import StreamBatch

__all__ = ["Conditioning", "Phase", "PhaseKind"]

PhaseKind = Literal["text", "both", "after"]
"""Of a step: "text" before anybody is in the picture, "both" streams, "after" the identity's."""

TextKey = tuple[str, str, int, float, float | None, int | None, str | None, str | None]
"""Prompt, negative prompt, seed, guidance scale, and what else keeps requests apart."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of step: the rows of its UNet call and what they see.

    Attributes:
        blocks: numbers of latents; each block stands in the call once a half, "without" first.
        halves: 2 with guidance, else 1.
        context: for the attention layers.
        hidden, pooled: encoded texts of the rows.
        spread: where latents are not fed all, the fed row, without halves, whose prediction each
            of them takes.
        unfed: the first latents, which are not fed and go on by their last prediction.
    """

    blocks: tuple[Tensor, ...]
    halves: int
    context: StreamContext
    hidden: Tensor
    pooled: Tensor
    spread: Tensor | None
    unfed: int = 0


class Conditioning:
    """Texts and identities of a batch; `phase` cuts out what a step needs.

    Latents are numbered: those of the G text streams, if the batch has such, then those of the N
    identity streams, if it has such.

    Args:
        base: the text-to-image model.
        adapter: of the identity tokens, None without.
        batch: N requests.
        texts: G distinct ones.
        layout: rows of a step with guidance, if any request has it, and with all streams.
        fusion: how the identity streams take from the text streams.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: StreamAdapter | None,
        batch: StreamBatch,
        texts: Sequence[TextKey],
        layout: StreamLayout,
        fusion: FusionConfig,
    ) -> None:
        self._layout, self._fusion, self._device = layout, fusion, base.device
        self._text = _encode_groups(base, texts, layout.guidance)
        self._keys = _text_keys(base, self._text.hidden)
        self._personal: StreamContext | None = None
        self._made: dict[tuple[PhaseKind, bool, bool, bool], Phase] = {}
        if adapter is not None and layout.personal:
            self._personal = self._with_identity(base, adapter, batch)

    def phase(
        self, kind: PhaseKind, guided: bool, *, apart: bool = False, text_kept: bool = False
    ) -> Phase:
        """The rows of a step.

        Args:
            kind: of the step.
            guided: False leaves the rows without text out.
            apart: in a "text" step the latents of the identity streams are no longer those of
                the text streams, because a caller has changed them.
            text_kept: in a "both" step the text streams are not run; what the identity streams
                read of them was kept.
        """
        key = (kind, guided, apart, text_kept)
        if key not in self._made:
            both = kind == "both"
            self._made[key] = (
                self._both(guided, text_kept) if both else self._plain(kind, guided, apart)
            )
        return self._made[key]

    def _plain(self, kind: PhaseKind, guided: bool, apart: bool) -> Phase:
        """Rows of the plain text-to-image model."""
        layout = self._layout
        text_members = layout.group_count if layout.with_text else 0
        identities = len(layout.groups) if layout.personal else 0
        members = range(text_members + identities)
        group_of = [*range(text_members), *layout.groups[:identities]]
        fed = list(members)
        if kind == "after":
            fed = fed[text_members:]
        elif not apart:
            fed = [group_of.index(group) for group in range(layout.group_count)]
        groups = [group_of[member] for member in fed]
        spread = None
        if fed != list(members):
            own = {member: row for row, member in enumerate(fed)}
            spread = self._tensor([own.get(m, groups.index(group_of[m])) for m in members])
        rows = self._text_rows(groups, guided)
        nobody = torch.empty(0, dtype=torch.int64, device=self._device)
        keys = [KeyValue(one.key[rows], one.value[rows]) for one in self._keys]
        context = StreamContext(self._fusion, len(rows), nobody, keys, identity=None)
        hidden, pooled = self._text.hidden[rows], self._text.pooled[rows]
        halves = 2 if guided else 1
        return Phase((self._tensor(fed),), halves, context, hidden, pooled, spread)

    def _both(self, guided: bool, text_kept: bool) -> Phase:
        if self._personal is None:
            raise RuntimeError("the batch has no identities")
        layout = replace(self._layout, guidance=guided)
        context = _in_order(self._narrowed(self._personal, layout))
        count, people = layout.group_count, len(layout.groups)
        unfed = count if text_kept else 0
        blocks = [torch.arange(people, device=self._device)]
        groups = list(layout.groups)
        rows = self._text_rows(groups, guided)
        if layout.with_text:
            blocks = [torch.arange(count, device=self._device), blocks[0] + count]
            if text_kept:
                blocks, context = blocks[1:], replace(context, text_rows=0)
            else:
                rows = torch.cat([self._text_rows(range(count), guided), rows])
        hidden, pooled = self._text.hidden[rows], self._text.pooled[rows]
        return Phase(tuple(blocks), layout.halves, context, hidden, pooled, None, unfed)

    def _narrowed(self, context: StreamContext, layout: StreamLayout) -> StreamContext:
        """`context` for the halves that `layout` has: all, or the one with text alone."""
        if layout.guidance == self._layout.guidance:
            return context
        count, people = layout.group_count, len(layout.groups)

        def with_text(keys: Sequence[KeyValue] | None) -> list[KeyValue] | None:
            if keys is None:
                return None
            return [KeyValue(one.key[count:], one.value[count:]) for one in keys]

        source, scale = context.identity_source, context.identity_scale
        return replace(
            context,
            text_rows=layout.text_rows,
            source=layout.source,
            text=with_text(context.text),
            identity_text=with_text(context.identity_text),
            # The half without text shows nobody, so each of its rows sees one: `_shown`.
            identity_source=None if source is None else source[people:],
            regions=None if context.regions is None else context.regions.without(people),
            identity_scale=None if scale is None else scale[people:],
            unfused_rows=0,
        )

    def _text_rows(self, groups: Sequence[int], guided: bool) -> Tensor:
        """Rows of the encoded texts for latents of those groups."""
        count = self._layout.group_count
        halves = range(self._layout.halves)[None if guided else -1 :]
        return self._tensor([half * count + group for half in halves for group in groups])

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)

    def _with_identity(
        self, base: BaseModel, adapter: StreamAdapter, batch: StreamBatch
    ) -> StreamContext:
        """K'_id and V'_id of every layer, normalised and padded to one length.

        What is equal is made once: a row of `identity` is a distinct identity, or, where they are
        normalised towards texts, a distinct pair of identity and text.
        """
        fusion, layout, keys = self._fusion, self._layout, self._keys
        scale = _scale_of_rows(batch, layout, fusion, base)
        context = StreamContext(
            fusion,
            layout.text_rows,
            layout.source,
            keys,
            identity=None,
            lora=adapter.lora,
            unfused_rows=0 if fusion.unconditional or not layout.guidance else len(layout.groups),
            identity_scale=scale,
        )
        if adapter.lora is not None:
            of_texts = context.lora_scale
            if isinstance(of_texts, Tensor):
                # Requests of different scale share no text, so any request of a text says it.
                first = [layout.source.tolist().index(row) for row in range(len(keys[0].key))]
                of_texts = of_texts[self._tensor(first)]
            keys = _text_keys(base, self._text.hidden, adapter.lora, of_texts)
        tokens, rows_of, regions = _shown(base, batch, layout)
        normed = fusion.text_cross_attention and fusion.cross_norm != "none"
        texts = layout.source.tolist()
        texts_of = [texts[row] if normed else 0 for row in rows_of]
        pairs, numbers = group_texts(list(zip(map(id, tokens), texts_of, strict=True)))
        by_id = {id(token): token for token in tokens}
        longest = max(token.shape[0] for token in tokens)
        # Tokens of one length are projected together; padded ones apart, because normalisation is
        # a mean over an identity's own tokens, which padding would shift.
        order: list[int] = []
        parts: list[list[KeyValue]] = []
        for length in sorted({token.shape[0] for token in tokens}):
            members = [n for n, (key, _) in enumerate(pairs) if by_id[key].shape[0] == length]
            unique, rows = group_texts([pairs[n][0] for n in members])
            stacked = torch.stack([by_id[key] for key in unique]).to(base.device, base.dtype)
            own, source = self._tensor(rows), self._tensor([pairs[n][1] for n in members])
            part = []
            for layer, made in enumerate(adapter.image(stacked)):
                one = KeyValue(made.key[own], made.value[own])
                if normed:
                    of_text = KeyValue(keys[layer].key[source], keys[layer].value[source])
                    one = normalise(one, of_text, fusion.cross_norm)
                part.append(KeyValue(*(F.pad(x, (0, 0, 0, longest - length)) for x in one)))
            order.extend(members)
            parts.append(part)
        identity = [
            KeyValue(torch.cat([one.key for one in same]), torch.cat([one.value for one in same]))
            for same in zip(*parts, strict=True)
        ]
        place = {number: row for row, number in enumerate(order)}
        lengths = self._tensor([by_id[pairs[n][0]].shape[0] for n in order])
        mask = torch.arange(longest, device=base.device)[None] < lengths[:, None]
        return replace(
            context,
            identity=identity,
            identity_source=self._tensor([place[n] for n in numbers]),
            identity_mask=None if len(parts) == 1 else mask[:, None, None, :],
            identity_text=keys if adapter.lora is not None else None,
            regions=regions,
        )


def _in_order(context: StreamContext) -> StreamContext:
    """`context` without gathers where rows stand as they are needed; read once, not per step."""
    texts = context.text_rows or len(context.text[0].key if context.text else ())
    context = replace(context, in_order=context.source.tolist() == list(range(texts)))
    if context.identity_source is None or context.identity is None:
        return context
    rows = context.identity_source.tolist()
    first, last = rows[0], rows[0] + len(rows)
    if rows != list(range(first, last)):
        return context
    mask = context.identity_mask
    return replace(
        context,
        identity=[KeyValue(one.key[first:last], one.value[first:last]) for one in context.identity],
        identity_source=None,
        identity_mask=None if mask is None else mask[first:last],
    )


def _shown(
    base: BaseModel, batch: StreamBatch, layout: StreamLayout
) -> tuple[list[Tensor], list[int], RegionRows | None]:
    """Whom identity rows show: tokens and row of each pair of a row and a person, by row, and
    where; None where each row shows one person in the whole picture."""
    given = list(batch.tokens or ())
    maps = [
        group_maps(one.regions, batch.height, batch.width) if isinstance(one, GroupTokens) else None
        for one in given
    ]
    tokens: list[Tensor] = []
    rows: list[int] = []
    places: list[Tensor | None] = []
    if layout.guidance and batch.null_tokens is not None:
        # Nobody is nobody in each region alike: one pair stands for all of a group's.
        tokens += [batch.null_tokens] * len(given)
        rows += range(len(given))
        places += [None if one is None else one.sum(dim=0) for one in maps]
    for row, (one, own) in enumerate(zip(given, maps, strict=True), start=len(rows)):
        parts = one.tokens if isinstance(one, GroupTokens) else (one,)
        tokens += parts
        rows += [row] * len(parts)
        places += [None] if own is None else list(own)
    if all(one is None for one in places):
        return tokens, rows, None
    height, width = batch.height // base.vae_factor, batch.width // base.vae_factor
    levels = range(len(base.unet.config.block_out_channels))
    sizes = [(height >> level, width >> level) for level in levels]
    return tokens, rows, region_rows(rows, places, sizes, base.device)


def _scale_of_rows(
    batch: StreamBatch, layout: StreamLayout, fusion: FusionConfig, base: BaseModel
) -> Tensor | None:
    """(identity rows, 1, 1) where a request's identity scale is not the fusion's."""
    scales = batch.identity_scales
    if scales is None or all(scale == fusion.identity_scale for scale in scales):
        return None
    values = torch.tensor([*scales] * layout.halves, device=base.device, dtype=base.dtype)
    return values.view(-1, 1, 1)


def _encode_groups(base: BaseModel, texts: Sequence[TextKey], guidance: bool) -> TextEmbeddings:
    """Texts in the row order of `StreamLayout`: (halves * G) rows."""
    prompts, numbers = group_texts([prompt for prompt, *_ in texts])
    positive = base.encode(prompts)
    order = torch.tensor(numbers, device=base.device)
    hidden, pooled = positive.hidden[order], positive.pooled[order]
    if not guidance:
        return TextEmbeddings(hidden, pooled)
    negatives, numbers = group_texts([negative for _, negative, *_ in texts])
    negative = base.encode_negative(negatives)
    order = torch.tensor(numbers, device=base.device)
    return TextEmbeddings(
        torch.cat([negative.hidden[order], hidden]), torch.cat([negative.pooled[order], pooled])
    )


def _text_keys(
    base: BaseModel,
    hidden: Tensor,
    lora: AttentionLora | None = None,
    scale: float | Tensor = 1.0,
) -> list[KeyValue]:
    """K'_t and V'_t of every cross-attention layer, of texts (B, L, D)."""
    found = []
    for layer in cross_attention_layers(base.unet):
        attn = base.unet.get_submodule(layer)
        key, value = attn.to_k(hidden), attn.to_v(hidden)
        if lora is not None:
            key = lora.add(layer, "to_k", hidden, key, 0, scale)
            value = lora.add(layer, "to_v", hidden, value, 0, scale)
        found.append(KeyValue(key, value))
    return found
