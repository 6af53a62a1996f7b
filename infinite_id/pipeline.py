"""Two-stream denoising (METHOD section 3): one UNet call a step for all rows of a batch.

    z_t, z_id    latents of the text and of the identity streams, equal at the first step
    eps          eps(z, t, without) + w (eps(z, t, with) - eps(z, t, without)), w the guidance scale

The text stream denoises its own latents from the prompt alone; the identity stream reads its keys
and values in every self-attention layer and never writes to it. Requests of equal text and seed
share one text stream, so N requests in G groups cost 2 (G + N) rows a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infinite_id.adapter import IdentityAdapter
from infinite_id.attention import StreamContext, cross_attention_layers
from infinite_id.base import BaseModel, TextEmbeddings
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.fusion import KeyValue, normalise
from infinite_id.streams import StreamLayout, group_texts
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
    """Results: `latents` (N, 4, h, w) of the requests; `text_latents` (G, 4, h, w) of the text
    streams, None where none ran; `groups`: the text group of each request."""

    latents: Tensor
    text_latents: Tensor | None
    groups: tuple[int, ...]


@torch.inference_mode()
def denoise(
    base: BaseModel,
    adapter: IdentityAdapter | None,
    batch: StreamBatch,
    fusion: FusionConfig,
    sampler: SamplerConfig,
    *,
    on_step: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
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

    Raises:
        ValueError: a size that the VAE factor does not divide, a text that is too long.
        CancelledError: `should_stop` answered True.
    """
    _check_size(base, batch)
    keys = list(zip(batch.prompts, batch.negative_prompts, batch.seeds, strict=True))
    distinct, groups = group_texts(keys)
    guidance = any(scale > 1 for scale in batch.guidance_scales)
    personal = batch.tokens is not None
    # Cross-attention reads texts, not text streams: without fusion nobody reads the streams.
    with_text = not personal or fusion.fusion != "none"
    layout = StreamLayout(groups, len(distinct), guidance, with_text, personal, base.device)

    inputs = _Inputs.of(base, distinct, batch, layout)
    identity, mask = (
        _identity_keys(base, adapter, batch, fusion, layout, inputs.texts)
        if personal and adapter is not None
        else (None, None)
    )
    context = StreamContext(
        fusion, layout.text_rows, layout.source, inputs.texts, identity, identity_mask=mask
    )
    steps = _Steps(base, sampler, batch, layout, personal)
    total = len(steps.timesteps)
    with base.streams():
        for number, timestep in enumerate(steps.timesteps):
            if should_stop is not None and should_stop():
                raise CancelledError(f"stopped after {number} of {total} steps")
            position = (number + 0.5) / total
            active = fusion.steps[0] <= position <= fusion.steps[1]
            steps.advance(timestep, inputs, replace(context, active=active))
            if on_step is not None:
                on_step(number + 1, total)
    return steps.result()


def _check_size(base: BaseModel, batch: StreamBatch) -> None:
    # The UNet halves its input once a block transition; the skip connections must fit again.
    factor = base.vae_factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
    for name, value in (("height", batch.height), ("width", batch.width)):
        if value < factor or value % factor:
            raise ValueError(f"{name} is {value}, allowed: a multiple of {factor}")


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Constant inputs of the UNet: computed once a batch."""

    texts: list[KeyValue]
    hidden: Tensor
    pooled: Tensor
    time_ids: Tensor

    @classmethod
    def of(
        cls, base: BaseModel, groups: Sequence[Any], batch: StreamBatch, layout: StreamLayout
    ) -> _Inputs:
        text = _encode_groups(base, groups, layout.guidance)
        texts = []
        for layer in cross_attention_layers(base.unet):
            attn = base.unet.get_submodule(layer)
            texts.append(KeyValue(attn.to_k(text.hidden), attn.to_v(text.hidden)))
        # Rows of the text streams, then of the identity streams, which see the same texts.
        own = torch.arange(layout.text_rows, device=base.device)
        rows = torch.cat([own, layout.source])
        time_ids = base.time_ids(batch.height, batch.width).expand(len(rows), -1)
        return cls(texts, text.hidden[rows], text.pooled[rows], time_ids)


def _encode_groups(base: BaseModel, groups: Sequence[Any], guidance: bool) -> TextEmbeddings:
    """Texts in the row order of `StreamLayout`: (halves * G) rows."""
    prompts, numbers = group_texts([prompt for prompt, _, _ in groups])
    positive = base.encode([str(prompt) for prompt in prompts])
    order = torch.tensor(numbers, device=base.device)
    hidden, pooled = positive.hidden[order], positive.pooled[order]
    if not guidance:
        return TextEmbeddings(hidden, pooled)
    negatives, numbers = group_texts([negative for _, negative, _ in groups])
    negative = base.encode_negative([str(text) for text in negatives])
    order = torch.tensor(numbers, device=base.device)
    return TextEmbeddings(
        torch.cat([negative.hidden[order], hidden]), torch.cat([negative.pooled[order], pooled])
    )


def _identity_keys(
    base: BaseModel,
    adapter: IdentityAdapter,
    batch: StreamBatch,
    fusion: FusionConfig,
    layout: StreamLayout,
    texts: Sequence[KeyValue],
) -> tuple[list[KeyValue], Tensor | None]:
    """K'_id and V'_id of every identity row and layer, normalised and padded to one length."""
    tokens = [token.to(base.dtype) for token in batch.tokens or ()]
    if layout.guidance:
        null = tokens[0].new_tensor([]) if batch.null_tokens is None else batch.null_tokens
        tokens = [null.to(base.dtype)] * len(tokens) + tokens
    # Each distinct row is projected alone: its length is its own, and normalisation is a mean
    # over its own tokens, which padding would shift.
    longest = max(token.shape[0] for token in tokens)
    projected: dict[int, list[KeyValue]] = {}
    for token in tokens:
        if id(token) not in projected:
            projected[id(token)] = adapter.image(token[None])
    keys: list[KeyValue] = []
    source = layout.source.tolist()
    for layer, text in enumerate(texts):
        rows = []
        for row, token in enumerate(tokens):
            own = projected[id(token)][layer]
            if fusion.text_cross_attention:
                number = source[row]
                of_text = KeyValue(text.key[number : number + 1], text.value[number : number + 1])
                own = normalise(own, of_text, fusion.cross_norm)
            missing = longest - token.shape[0]
            rows.append(KeyValue(*(F.pad(part, (0, 0, 0, missing)) for part in own)))
        keys.append(
            KeyValue(torch.cat([row.key for row in rows]), torch.cat([row.value for row in rows]))
        )
    lengths = torch.tensor([token.shape[0] for token in tokens], device=base.device)
    if bool((lengths == longest).all()):
        return keys, None
    mask = torch.arange(longest, device=base.device)[None] < lengths[:, None]
    return keys, mask[:, None, None, :]


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
        self._latents = self._scheduler.step(
            noise, timestep, self._latents, **self._arguments, return_dict=False
        )[0]

    def _guided(self, noise: Tensor, rows: slice) -> Tensor:
        if not self._layout.guidance or noise.shape[0] == 0:
            return noise
        without, with_text = noise.chunk(2)
        scale = self._scales[rows].clamp(min=1.0)
        return without + scale * (with_text - without)

    def result(self) -> DenoisedBatch:
        """The last latents, by request."""
        text = self._latents[: self._text] if self._text else None
        if self._personal:
            return DenoisedBatch(self._latents[self._text :], text, self._layout.groups)
        assert text is not None  # noqa: S101 -- narrows the type: only text streams ran
        own = torch.tensor(self._layout.groups, device=text.device)
        return DenoisedBatch(text[own], text, self._layout.groups)
