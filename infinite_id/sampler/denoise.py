"""Two-stream denoising (docs/method.md): one UNet call a step for all rows of a batch.

    z_t, z_id    latents of the text and of the identity streams, equal at the first step
    eps          eps(z, t, without) + w (eps(z, t, with) - eps(z, t, without)), w the guidance scale

The text stream denoises its own latents from the prompt alone; the identity stream reads its keys
and values in every self-attention layer and never writes to it. Requests of equal text, seed
and guidance share one text stream, so N requests in G groups cost 2 (G + N) rows a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infinite_id.attention.fusion import KeyValue, normalise
from infinite_id.attention.layout import StreamLayout, group_texts
from infinite_id.attention.lora import AttentionLora
from infinite_id.attention.processors import StreamContext, cross_attention_layers
from infinite_id.base import BaseModel, TextEmbeddings
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.identity.adapter import StreamAdapter
from infinite_id.sampler.previews import clean_latents
from infinite_id.types import CancelledError

__all__ = ["DenoisedBatch", "StreamBatch", "denoise"]


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """What is denoised together: N requests of one size.

    Attributes:
        prompts, negative_prompts, seeds: N of each.
        guidance_scales: N; guidance is on where any is above 1.
        tokens: identity tokens of each request, N tensors (T, D), T may differ; None for the
            plain text-to-image model.
        null_tokens: identity tokens of nobody, (T, D); None with `tokens` None.
        height, width: pixels.
    """

    prompts: Sequence[str]
    negative_prompts: Sequence[str]
    seeds: Sequence[int]
    guidance_scales: Sequence[float]
    height: int
    width: int
    tokens: Sequence[Tensor] | None = None
    null_tokens: Tensor | None = None


@dataclass(frozen=True, slots=True)
class DenoisedBatch:
    """Results: `latents` (N, C, h, w) of the requests; `text_latents` (G, C, h, w) of the text
    streams, None where none ran; `groups`: the text group of each request."""

    latents: Tensor
    text_latents: Tensor | None
    groups: tuple[int, ...]


@torch.inference_mode()
def denoise(
    base: BaseModel,
    adapter: StreamAdapter | None,
    batch: StreamBatch,
    fusion: FusionConfig,
    sampler: SamplerConfig,
    *,
    on_step: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_clean: Callable[[int, int, Tensor], None] | None = None,
) -> DenoisedBatch:
    """Denoises a batch.

    Args:
        base: the text-to-image model.
        adapter: needed with `batch.tokens`.
        batch: the requests.
        fusion: how the identity streams take from the text streams.
        sampler: scheduler and number of steps; each request has its own guidance scale.
        on_step: called as on_step(steps done, steps) after each step.
        should_stop: asked before each step.
        on_clean: called as on_clean(steps done, steps, latents) after each step with what it
            predicts of the last latents, (N, C, h, w) of the requests.

    Raises:
        ValueError: a size that the VAE factor does not divide, a text that is too long.
        CancelledError: `should_stop` answered True.
    """
    _check(base, batch)
    # A text stream has its own guidance, so requests share one only if they share that too.
    keys = list(
        zip(batch.prompts, batch.negative_prompts, batch.seeds, batch.guidance_scales, strict=True)
    )
    distinct, groups = group_texts(keys)
    guidance = any(scale > 1 for scale in batch.guidance_scales)
    personal = batch.tokens is not None
    # Cross-attention reads texts, not text streams: without fusion nobody reads the streams.
    with_text = not personal or fusion.fusion != "none"
    layout = StreamLayout(groups, len(distinct), guidance, with_text, personal, base.device)

    lora = adapter.lora if adapter is not None and personal else None
    inputs = _Inputs.of(base, distinct, batch, layout)
    context = StreamContext(
        fusion,
        layout.text_rows,
        layout.source,
        inputs.texts,
        identity=None,
        lora=lora,
        unfused_rows=0 if fusion.unconditional or not guidance else len(groups),
    )
    if personal and adapter is not None:
        context = _with_identity(base, adapter, batch, layout, context, inputs.encoded)
    steps = _Steps(base, sampler, batch, layout, personal)
    total = len(steps.timesteps)
    with base.streams():
        for number, timestep in enumerate(steps.timesteps):
            if should_stop is not None and should_stop():
                raise CancelledError(f"stopped after {number} of {total} steps")
            position = (number + 0.5) / total
            active = fusion.steps[0] <= position <= fusion.steps[1]
            steps.advance(timestep, inputs, replace(context, active=active))
            if on_clean is not None:
                on_clean(number + 1, total, steps.clean())
            if on_step is not None:
                on_step(number + 1, total)
    return steps.result()


def _check(base: BaseModel, batch: StreamBatch) -> None:
    # The UNet halves its input once a block transition; the skip connections must fit again.
    factor = base.vae_factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
    for name, value in (("height", batch.height), ("width", batch.width)):
        if value < factor or value % factor:
            raise ValueError(f"{name} is {value}, allowed: a multiple of {factor}")
    if batch.tokens is None:
        return
    if batch.null_tokens is None:
        raise ValueError("null_tokens is None, allowed with tokens: identity tokens of nobody")
    width = base.unet.config.cross_attention_dim
    for number, tokens in enumerate(batch.tokens):
        name = f"identity tokens of request {number}"
        if tokens.ndim != 2 or tokens.shape[1] != width or tokens.shape[0] == 0:
            raise ValueError(f"{name} have the shape {tuple(tokens.shape)}, allowed: (T, {width})")
        if not bool(torch.isfinite(tokens).all()):
            raise ValueError(f"{name} hold NaN or infinity, allowed: finite numbers")


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Constant inputs of the UNet: computed once a batch."""

    texts: list[KeyValue]
    encoded: Tensor
    hidden: Tensor
    pooled: Tensor
    time_ids: Tensor

    @classmethod
    def of(
        cls, base: BaseModel, groups: Sequence[Any], batch: StreamBatch, layout: StreamLayout
    ) -> _Inputs:
        text = _encode_groups(base, groups, layout.guidance)
        texts = _text_keys(base, text.hidden)
        # Rows of the text streams, then of the identity streams, which see the same texts.
        own = torch.arange(layout.text_rows, device=base.device)
        rows = torch.cat([own, layout.source])
        time_ids = base.time_ids(batch.height, batch.width).expand(len(rows), -1)
        return cls(texts, text.hidden, text.hidden[rows], text.pooled[rows], time_ids)


def _encode_groups(base: BaseModel, groups: Sequence[Any], guidance: bool) -> TextEmbeddings:
    """Texts in the row order of `StreamLayout`: (halves * G) rows."""
    prompts, numbers = group_texts([prompt for prompt, *_ in groups])
    positive = base.encode([str(prompt) for prompt in prompts])
    order = torch.tensor(numbers, device=base.device)
    hidden, pooled = positive.hidden[order], positive.pooled[order]
    if not guidance:
        return TextEmbeddings(hidden, pooled)
    negatives, numbers = group_texts([negative for _, negative, *_ in groups])
    negative = base.encode_negative([str(text) for text in negatives])
    order = torch.tensor(numbers, device=base.device)
    return TextEmbeddings(
        torch.cat([negative.hidden[order], hidden]), torch.cat([negative.pooled[order], pooled])
    )


def _text_keys(
    base: BaseModel, hidden: Tensor, lora: AttentionLora | None = None, scale: float = 1.0
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


def _with_identity(
    base: BaseModel,
    adapter: StreamAdapter,
    batch: StreamBatch,
    layout: StreamLayout,
    context: StreamContext,
    encoded: Tensor,
) -> StreamContext:
    """`context` with K'_id and V'_id of every layer, normalised and padded to one length.

    What is equal is made once: a row of `identity` is a distinct identity, or, where they are
    normalised towards texts, a distinct pair of identity and text.
    """
    fusion, texts = context.fusion, context.text
    if adapter.lora is not None:
        scale = min(max(fusion.identity_scale, 0.0), 1.0)
        texts = _text_keys(base, encoded, adapter.lora, scale)
    tokens = list(batch.tokens or ())
    if layout.guidance and batch.null_tokens is not None:
        tokens = [batch.null_tokens] * len(tokens) + tokens
    normed = fusion.text_cross_attention and fusion.cross_norm != "none"
    texts_of = layout.source.tolist() if normed else [0] * len(tokens)
    pairs, numbers = group_texts(list(zip(map(id, tokens), texts_of, strict=True)))
    by_id = {id(token): token for token in tokens}
    longest = max(token.shape[0] for token in tokens)
    # Tokens of one length are projected together; padded ones apart, because normalisation is a
    # mean over an identity's own tokens, which padding would shift.
    order: list[int] = []
    parts: list[list[KeyValue]] = []
    for length in sorted({token.shape[0] for token in tokens}):
        members = [n for n, (key, _) in enumerate(pairs) if by_id[key].shape[0] == length]
        unique, rows = group_texts([pairs[n][0] for n in members])
        stacked = torch.stack([by_id[key] for key in unique]).to(base.device, base.dtype)
        own = torch.tensor(rows, device=base.device)
        source = torch.tensor([pairs[n][1] for n in members], device=base.device)
        part = []
        for layer, made in enumerate(adapter.image(stacked)):
            keys = KeyValue(made.key[own], made.value[own])
            if normed and texts is not None:
                of_text = KeyValue(texts[layer].key[source], texts[layer].value[source])
                keys = normalise(keys, of_text, fusion.cross_norm)
            part.append(KeyValue(*(F.pad(x, (0, 0, 0, longest - length)) for x in keys)))
        order.extend(members)
        parts.append(part)
    identity = [
        KeyValue(torch.cat([one.key for one in same]), torch.cat([one.value for one in same]))
        for same in zip(*parts, strict=True)
    ]
    place = {number: row for row, number in enumerate(order)}
    lengths = torch.tensor([by_id[pairs[n][0]].shape[0] for n in order], device=base.device)
    mask = torch.arange(longest, device=base.device)[None] < lengths[:, None]
    return replace(
        context,
        identity=identity,
        identity_source=torch.tensor([place[n] for n in numbers], device=base.device),
        identity_mask=None if len(parts) == 1 else mask[:, None, None, :],
        identity_text=texts if adapter.lora is not None else None,
    )


class _Steps:
    """Latents of both streams and the scheduler that moves them."""

    def __init__(
        self,
        base: BaseModel,
        sampler: SamplerConfig,
        batch: StreamBatch,
        layout: StreamLayout,
        personal: bool,
    ) -> None:
        self._base, self._layout, self._personal = base, layout, personal
        self._scheduler = base.scheduler(sampler.scheduler, sampler.num_inference_steps)
        self.timesteps = self._scheduler.timesteps
        first = [layout.groups.index(group) for group in range(layout.group_count)]
        members = (first if layout.with_text else []) + (
            list(range(len(layout.groups))) if personal else []
        )
        self._text = layout.group_count if layout.with_text else 0
        noise = [base.noise(batch.seeds[m], batch.height, batch.width) for m in members]
        self._latents = torch.stack(noise).to(base.device) * self._scheduler.init_noise_sigma
        scales = [batch.guidance_scales[m] for m in members]
        self._scales = torch.tensor(scales, device=base.device).view(-1, 1, 1, 1)
        self._moved: tuple[Tensor, ...] = ()
        self._arguments: dict[str, Any] = {}
        if "generator" in inspect.signature(self._scheduler.step).parameters:
            # Schedulers that add noise draw it from each request's own generator too.
            self._arguments["generator"] = [
                torch.Generator("cpu").manual_seed(batch.seeds[m] ^ 0x5EED) for m in members
            ]

    def advance(self, timestep: Tensor, inputs: _Inputs, context: StreamContext) -> None:
        """One step of all rows."""
        scaled = self._scheduler.scale_model_input(self._latents, timestep).to(self._base.dtype)
        text, identity = scaled[: self._text], scaled[self._text :]
        halves = self._layout.halves
        rows = torch.cat([text] * halves + [identity] * halves)
        noise = self._base.unet(
            rows,
            timestep,
            encoder_hidden_states=inputs.hidden,
            added_cond_kwargs={"text_embeds": inputs.pooled, "time_ids": inputs.time_ids},
            cross_attention_kwargs={"streams": context},
            return_dict=False,
        )[0].float()
        cut = halves * self._text
        of_text = self._guided(noise[:cut], slice(0, self._text))
        of_identity = self._guided(noise[cut:], slice(self._text, None))
        noise = torch.cat([of_text, of_identity])
        self._moved = self._scheduler.step(
            noise, timestep, self._latents, **self._arguments, return_dict=False
        )
        self._latents = self._moved[0]

    def clean(self) -> Tensor:
        """The clean latents that the last step predicts, by request."""
        return self._of_requests(clean_latents(self._scheduler, self._moved))

    def _guided(self, noise: Tensor, rows: slice) -> Tensor:
        if not self._layout.guidance or noise.shape[0] == 0:
            return noise
        without, with_text = noise.chunk(2)
        scale = self._scales[rows].clamp(min=1.0)
        return without + scale * (with_text - without)

    def _of_requests(self, latents: Tensor) -> Tensor:
        if self._personal:
            return latents[self._text :]
        return latents[torch.tensor(self._layout.groups, device=latents.device)]

    def result(self) -> DenoisedBatch:
        """The last latents, by request."""
        text = self._latents[: self._text] if self._text else None
        return DenoisedBatch(self._of_requests(self._latents), text, self._layout.groups)
