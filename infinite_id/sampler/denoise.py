"""Two-stream denoising (docs/method.md): one UNet call a step for all rows of a batch.

    z_t, z_id    latents of the text and of the identity streams, equal at the first step: noise,
                 or one noised picture
    eps          eps(z, t, without) + w (eps(z, t, with) - eps(z, t, without)), w the guidance scale

The text stream denoises its own latents from the prompt alone; the identity stream reads its keys
and values in every self-attention layer and never writes to it. Requests of equal text, seed
and guidance share one text stream, so N requests in G groups cost 2 (G + N) rows a step. Steps
without guidance cost G + N; steps before the identity begins cost the text streams' rows alone,
steps after its end the identity streams'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from infinite_id.attention.fusion import KeyValue
from infinite_id.attention.layout import StreamLayout, group_texts
from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.identity.adapter import StreamAdapter
from infinite_id.sampler.batch import DenoisedBatch, StreamBatch, check_batch
from infinite_id.sampler.conditioning import Conditioning, Phase, PhaseKind, TextKey
from infinite_id.sampler.control import Control
from infinite_id.sampler.reuse import Reuse
from infinite_id.sampler.scheduled import ScheduledLatents, guided
from infinite_id.types import CancelledError

__all__ = ["denoise", "inside"]


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
    on_latents: Callable[[int, Tensor, Tensor], Tensor | None] | None = None,
    is_enough: Callable[[], bool] | None = None,
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
        on_latents: called as on_latents(step from 0, timestep, latents) after each step with the
            latents (N, C, h, w) of the requests; what it returns stands in their place.
        is_enough: asked after each step; True ends here, with the latents as they are.

    Raises:
        ValueError: a size that the VAE factor does not divide, a text that is too long, an initial
            picture that does not fit.
        CancelledError: `should_stop` answered True.
    """
    check_batch(base, batch)
    personal = batch.tokens is not None
    texts, groups = group_texts(_text_keys(batch, adapter, apart=on_latents is not None))
    guidance = any(scale > 1 for scale in batch.guidance_scales)
    # Cross-attention reads texts, not text streams: without fusion nobody reads the streams.
    with_text = not personal or fusion.fusion != "none"
    layout = StreamLayout(groups, len(texts), guidance, with_text, personal, base.device)
    seen = Conditioning(base, adapter, batch, texts, layout, fusion)
    steps = _Steps(base, sampler, batch, layout)
    total = len(steps.timesteps)
    with base.streams():
        for number, timestep in enumerate(steps.timesteps):
            if should_stop is not None and should_stop():
                raise CancelledError(f"stopped after {number} of {total} steps")
            position = (number + 0.5) / total
            kind = _kind(position, fusion) if personal else "text"
            with_guidance = guidance and inside(position, sampler.guidance_steps)
            phase = seen.phase(
                kind,
                with_guidance,
                apart=steps.apart and kind == "text",
                text_kept=steps.text_kept(kind, with_guidance),
            )
            active = inside(position, fusion.steps)
            steps.advance(number, phase, active)
            if kind == "after":
                steps.text_ended = True
            if on_clean is not None:
                on_clean(number + 1, total, steps.clean())
            if on_latents is not None:
                steps.change(on_latents(number, timestep, steps.latents().clone()))
            if on_step is not None:
                on_step(number + 1, total)
            if is_enough is not None and is_enough():
                break
    return DenoisedBatch(steps.latents(), steps.text_latents(), groups)


def inside(position: float, fractions: tuple[float, float]) -> bool:
    """Whether a step at `position`, its middle in [0, 1] of all steps, is between the two."""
    return fractions[0] <= position <= fractions[1]


def _kind(position: float, fusion: FusionConfig) -> PhaseKind:
    first, last = fusion.identity_steps
    if position < first:
        return "text"
    return "both" if position <= last else "after"


def _text_keys(batch: StreamBatch, adapter: StreamAdapter | None, *, apart: bool) -> list[TextKey]:
    """What requests have in common that share a text stream."""
    count = len(batch.prompts)
    scales: list[float | None] = [None] * count
    if batch.identity_scales is not None and adapter is not None and adapter.lora is not None:
        # An update of the projections changes how an identity stream sees its text, by its scale.
        scales = list(batch.identity_scales)
    # Who changes latents of the plain model changes one picture's, not those of its equals.
    numbers: list[int | None] = [None] * count
    if apart and batch.tokens is None:
        numbers = list(range(count))
    # Both streams begin with the same noised picture, and are held by the same control picture.
    pictures = [None if one is None else one.digest for one in batch.init_images or [None] * count]
    held = [None if one is None else one.digest for one in batch.control_images or [None] * count]
    # A text stream has its own guidance, so requests share one only if they share that too.
    return list(
        zip(
            batch.prompts,
            batch.negative_prompts,
            batch.seeds,
            batch.guidance_scales,
            scales,
            numbers,
            pictures,
            held,
            strict=True,
        )
    )


class _Steps:
    """Latents of all streams and the scheduler that moves them."""

    def __init__(
        self, base: BaseModel, sampler: SamplerConfig, batch: StreamBatch, layout: StreamLayout
    ) -> None:
        self._layout = layout
        self.apart = self.text_ended = False
        first = [layout.groups.index(group) for group in range(layout.group_count)]
        members = (first if layout.with_text else []) + (
            list(range(len(layout.groups))) if layout.personal else []
        )
        self._text = layout.group_count if layout.with_text else 0
        seeds = [batch.seeds[m] for m in members]
        pictures = None if batch.init_images is None else [batch.init_images[m] for m in members]
        self._latents = ScheduledLatents(base, sampler, seeds, batch.height, batch.width, pictures)
        self.timesteps = self._latents.timesteps
        scales = [batch.guidance_scales[m] for m in members]
        self._scales = torch.tensor(scales, device=base.device).view(-1, 1, 1, 1)
        self._time_ids = base.time_ids(batch.height, batch.width)
        self._control: Control | None = None
        if batch.control_images is not None and any(batch.control_images):
            held = [batch.control_images[m] for m in members]
            # Of the plain model there is one stream, which is the text's.
            text = self._text if layout.personal else len(members)
            if not text and any(one is not None and one.streams == "text" for one in held):
                raise ValueError(
                    "control_streams is 'text' and this method has no text stream, allowed: both"
                )
            self._control = Control(base, held, text, self._time_ids)
        self._unet = Reuse(base.unet, sampler.reuse_steps)
        self._text_every = sampler.text_every if self._text and layout.personal else 1
        self._since_text = 0
        self._kind: tuple[PhaseKind, bool] | None = None
        self._kept: dict[str, KeyValue] | None = {} if self._text_every > 1 else None
        self._text_noise: Tensor | None = None

    def text_kept(self, kind: PhaseKind, guided: bool) -> bool:
        """Whether the next step, of this kind, leaves the text streams out."""
        same = kind == "both" and (kind, guided) == self._kind
        self._kind = (kind, guided)
        self._since_text = self._since_text + 1 if same else 0
        if self._since_text >= self._text_every:
            self._since_text = 0
        return self._since_text > 0

    def _kept_now(self) -> dict[str, KeyValue] | None:
        """What a step of both streams keeps or reads; after the last of them it is let go."""
        if self._kept is None or (self._kind is not None and self._kind[0] == "both"):
            return self._kept
        self._kept.clear()
        return None

    def advance(self, step: int, phase: Phase, active: bool) -> None:
        """One step of all latents, from 0."""
        timestep = self.timesteps[step]
        scaled = self._latents.scaled(timestep)
        rows = torch.cat([scaled[block] for block in phase.blocks for _ in range(phase.halves)])
        added: dict[str, Any] = {}
        if self._control is not None:
            added = self._control.added(step, len(self.timesteps), phase, rows, timestep)
        predicted = self._unet(
            (id(phase), active, bool(added)),
            rows,
            timestep,
            encoder_hidden_states=phase.hidden,
            added_cond_kwargs={
                "text_embeds": phase.pooled,
                "time_ids": self._time_ids.expand(len(rows), -1),
            },
            cross_attention_kwargs={
                "streams": replace(phase.context, active=active, kept=self._kept_now())
            },
            **added,
        ).float()
        sizes = [phase.halves * len(block) for block in phase.blocks]
        noise = torch.cat(
            [
                part if phase.halves == 1 else guided(part, self._scales[block])
                for part, block in zip(predicted.split(sizes), phase.blocks, strict=True)
            ]
        )
        if phase.spread is not None:
            noise = noise[phase.spread]
        if phase.unfed and self._text_noise is not None:
            noise = torch.cat([self._text_noise, noise])
        self._text_noise = noise[: self._text]
        self._latents.move(noise, timestep)

    def clean(self) -> Tensor:
        """The clean latents that the last step predicts, by request."""
        return self._of_requests(self._latents.clean())

    def change(self, latents: Tensor | None) -> None:
        """Puts `latents` (N, C, h, w) of the requests in the place of theirs; None: nothing."""
        own = self.latents()
        if latents is None or torch.equal(latents, own):
            return
        if latents.shape != own.shape:
            raise ValueError(
                f"latents have the shape {tuple(latents.shape)}, allowed: {tuple(own.shape)}"
            )
        changed = self._latents.value.clone()
        changed[self._text if self._layout.personal else 0 :] = latents
        self._latents.value, self.apart = changed, True

    def latents(self) -> Tensor:
        """The latents, by request."""
        return self._of_requests(self._latents.value)

    def text_latents(self) -> Tensor | None:
        """The latents of the text streams."""
        return self._latents.value[: self._text] if self._text and not self.text_ended else None

    def _of_requests(self, latents: Tensor) -> Tensor:
        if self._layout.personal:
            return latents[self._text :]
        return latents[torch.tensor(self._layout.groups, device=latents.device)]
