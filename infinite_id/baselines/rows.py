"""Plain text-to-image denoising in which every row has its own text embeddings.

For baselines that personalise by text embeddings or by LoRA. Noise, scheduler, size conditioning
and decoding are the base's own, so that a baseline differs from the two-stream sampler in its
method and in nothing else.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from infinite_id.base import BaseModel, TextEmbeddings
from infinite_id.config import SamplerConfig
from infinite_id.generator import LatentGenerator, StepHooks
from infinite_id.init_image import InitImage
from infinite_id.sampler.batch import check_size
from infinite_id.sampler.denoise import inside
from infinite_id.sampler.reuse import Reuse
from infinite_id.sampler.scheduled import ScheduledLatents, guided
from infinite_id.types import CancelledError, GenerationRequest, Identity

__all__ = ["RowBatch", "RowGenerator", "denoise_rows", "encode_ids", "find_identity", "twin"]


@dataclass(frozen=True, slots=True)
class RowBatch:
    """N pictures of one size.

    Attributes:
        text: N rows, what the picture is made from.
        negative: N rows.
        early: N rows that stand for `text` in the first steps; None: `text` throughout.
        merge_from: fraction of the steps in which `early` stands for `text`: step i takes `text`
            where i > floor(merge_from * steps).
        seeds, guidance_scales: N of each.
        height, width: pixels.
        init_images: N, that rows begin with, None for noise; all begin at one step.
    """

    text: TextEmbeddings
    negative: TextEmbeddings
    seeds: Sequence[int]
    guidance_scales: Sequence[float]
    height: int
    width: int
    early: TextEmbeddings | None = None
    merge_from: float = 0.0
    init_images: Sequence[InitImage | None] | None = None


def twin(base: BaseModel) -> BaseModel:
    """A base whose UNet has its own layers over the SAME weight tensors.

    LoRA layers can be put into it without touching the UNet that other generators use, and
    without a second copy of the weights in memory. Text encoders and VAE are the base's own, and
    so are their locks and whether they stay on the CPU.
    """
    unet = base.unet
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    parts = {**base.pipeline.components, "unet": copy.deepcopy(unet, shared)}
    pipeline = StableDiffusionXLPipeline(
        **parts,
        force_zeros_for_empty_prompt=base.pipeline.config.force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return base.sharing(pipeline)


def encode_ids(base: BaseModel, ids: Sequence[Tensor]) -> TextEmbeddings:
    """Encodes token ids, one int64 (B, L) a text encoder, as SDXL encodes text."""
    with base.text_encoders() as encoders:
        outputs = [
            encoder(tokens.to(base.device), output_hidden_states=True)
            for encoder, tokens in zip(encoders, ids, strict=True)
        ]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return TextEmbeddings(hidden.to(base.dtype), outputs[1].text_embeds.to(base.dtype))


@torch.inference_mode()
def denoise_rows(
    base: BaseModel,
    batch: RowBatch,
    sampler: SamplerConfig,
    *,
    on_step: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_clean: Callable[[int, int, Tensor], None] | None = None,
    on_latents: Callable[[int, Tensor, Tensor], Tensor | None] | None = None,
    is_enough: Callable[[], bool] | None = None,
) -> Tensor:
    """Latents (N, C, h, w) of N rows; a step with guidance has 2 N UNet rows, "without" first.

    Hooks as of `infinite_id.sampler.denoise.denoise`.

    Raises:
        ValueError: a size that does not fit the UNet.
        CancelledError: `should_stop` answered True.
    """
    check_size(base, batch.height, batch.width)
    size = (batch.height, batch.width)
    latents = ScheduledLatents(base, sampler, batch.seeds, *size, batch.init_images)
    guidance = any(scale > 1 for scale in batch.guidance_scales)
    scales = torch.tensor(batch.guidance_scales, device=base.device).view(-1, 1, 1, 1)
    time_ids = base.time_ids(batch.height, batch.width)
    unet = Reuse(base.unet, sampler.reuse_steps)
    total = len(latents.timesteps)
    merge = math.floor(batch.merge_from * total)
    for number, timestep in enumerate(latents.timesteps):
        if should_stop is not None and should_stop():
            raise CancelledError(f"stopped after {number} of {total} steps")
        text = batch.text if batch.early is None or number > merge else batch.early
        with_guidance = guidance and inside((number + 0.5) / total, sampler.guidance_steps)
        rows = [batch.negative, text] if with_guidance else [text]
        scaled = latents.scaled(timestep)
        predicted = unet(
            (text is batch.text, with_guidance),
            torch.cat([scaled] * len(rows)),
            timestep,
            encoder_hidden_states=torch.cat([row.hidden for row in rows]),
            added_cond_kwargs={
                "text_embeds": torch.cat([row.pooled for row in rows]),
                "time_ids": time_ids.expand(len(rows) * len(batch.seeds), -1),
            },
        ).float()
        latents.move(guided(predicted, scales) if with_guidance else predicted, timestep)
        if on_clean is not None:
            on_clean(number + 1, total, latents.clean())
        if on_latents is not None:
            changed = on_latents(number, timestep, latents.value)
            latents.value = latents.value if changed is None else changed
        if on_step is not None:
            on_step(number + 1, total)
        if is_enough is not None and is_enough():
            break
    return latents.value


def find_identity(identities: Mapping[str, Identity], key: str) -> Identity:
    """The person of that key.

    Raises:
        ValueError: there is none; the message lists those that are there.
    """
    if key not in identities:
        raise ValueError(f"identity is {key!r}, allowed: {', '.join(sorted(identities)) or 'none'}")
    return identities[key]


class RowGenerator(LatentGenerator):
    """Requests in, pictures out, over `denoise_rows`; a baseline says what its rows are."""

    @abstractmethod
    def _rows(
        self, requests: Sequence[GenerationRequest], identities: Mapping[str, Identity]
    ) -> RowBatch:
        """The rows of requests that share size, steps, and guidance on or off."""

    @contextmanager
    def _personalised(self, requests: Sequence[GenerationRequest]) -> Iterator[None]:
        """Around the denoising of rows that are the requests, once or, with guidance, twice."""
        yield

    def _denoised(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        sampler: SamplerConfig,
        hooks: StepHooks,
    ) -> Tensor:
        for request in requests:
            if request.identity_scale not in (None, 1.0):
                raise ValueError(
                    f"identity_scale is {request.identity_scale}, allowed with a method that has "
                    "no such scale: 1"
                )
            if request.control_image is not None:
                raise ValueError(
                    f"method {request.method} is given a control_image, allowed with it: none; "
                    "Infinite-ID, its ablations, the IP-Adapters and text_only take them"
                )
        with self._personalised(requests):
            rows = self._rows(requests, identities)
            return denoise_rows(
                self.base,
                replace(rows, init_images=[request.init_image for request in requests]),
                sampler,
                on_step=hooks.on_step,
                should_stop=hooks.should_stop,
                on_clean=hooks.on_clean,
                on_latents=hooks.on_latents,
                is_enough=hooks.is_enough,
            )
