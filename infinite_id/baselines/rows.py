"""Plain text-to-image denoising in which every row has its own text embeddings.

For baselines that personalise by text embeddings or by LoRA. Noise, scheduler, size conditioning
and decoding are the base's own, so that a baseline differs from the two-stream sampler in its
method and in nothing else.
"""

from __future__ import annotations

import copy
import inspect
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from infinite_id.base import BaseModel, TextEmbeddings
from infinite_id.config import SamplerConfig
from infinite_id.generator import check_request
from infinite_id.sampler.previews import clean_latents, preview_callback
from infinite_id.types import (
    CancelledError,
    GeneratedImage,
    GenerationRequest,
    Identity,
    PreviewHook,
)

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
    """

    text: TextEmbeddings
    negative: TextEmbeddings
    seeds: Sequence[int]
    guidance_scales: Sequence[float]
    height: int
    width: int
    early: TextEmbeddings | None = None
    merge_from: float = 0.0


def twin(base: BaseModel) -> BaseModel:
    """A base whose UNet has its own layers over the SAME weight tensors.

    LoRA layers can be put into it without touching the UNet that other generators use, and
    without a second copy of the weights in memory.
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
    return BaseModel(pipeline, base.revision, decode_slice=base.decode_slice)


def encode_ids(base: BaseModel, ids: Sequence[Tensor]) -> TextEmbeddings:
    """Encodes token ids, one int64 (B, L) a text encoder, as SDXL encodes text."""
    encoders = (base.pipeline.text_encoder, base.pipeline.text_encoder_2)
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
) -> Tensor:
    """Latents (N, C, h, w) of N rows; with guidance 2 N UNet rows a step, "without" first.

    Raises:
        ValueError: a size that does not fit the UNet.
        CancelledError: `should_stop` answered True.
    """
    _check_size(base, batch)
    scheduler = base.scheduler(sampler.scheduler, sampler.num_inference_steps)
    noise = [base.noise(seed, batch.height, batch.width) for seed in batch.seeds]
    latents = torch.stack(noise).to(base.device) * scheduler.init_noise_sigma
    guidance = any(scale > 1 for scale in batch.guidance_scales)
    scales = torch.tensor(batch.guidance_scales, device=base.device).view(-1, 1, 1, 1)
    halves = 2 if guidance else 1
    time_ids = base.time_ids(batch.height, batch.width).expand(halves * len(noise), -1)
    arguments: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        arguments["generator"] = [
            torch.Generator("cpu").manual_seed(seed ^ 0x5EED) for seed in batch.seeds
        ]
    total = len(scheduler.timesteps)
    merge = math.floor(batch.merge_from * total)
    for number, timestep in enumerate(scheduler.timesteps):
        if should_stop is not None and should_stop():
            raise CancelledError(f"stopped after {number} of {total} steps")
        text = batch.text if batch.early is None or number > merge else batch.early
        rows = [batch.negative, text] if guidance else [text]
        scaled = scheduler.scale_model_input(latents, timestep).to(base.dtype)
        predicted = base.unet(
            torch.cat([scaled] * halves),
            timestep,
            encoder_hidden_states=torch.cat([row.hidden for row in rows]),
            added_cond_kwargs={
                "text_embeds": torch.cat([row.pooled for row in rows]),
                "time_ids": time_ids,
            },
            return_dict=False,
        )[0].float()
        if guidance:
            without, with_text = predicted.chunk(2)
            predicted = without + scales.clamp(min=1.0) * (with_text - without)
        moved = scheduler.step(predicted, timestep, latents, **arguments, return_dict=False)
        latents = moved[0]
        if on_clean is not None:
            on_clean(number + 1, total, clean_latents(scheduler, moved))
        if on_step is not None:
            on_step(number + 1, total)
    return latents


def _check_size(base: BaseModel, batch: RowBatch) -> None:
    factor = base.vae_factor * 2 ** (len(base.unet.config.block_out_channels) - 1)
    for name, value in (("height", batch.height), ("width", batch.width)):
        if value < factor or value % factor:
            raise ValueError(f"{name} is {value}, allowed: a multiple of {factor}")


def find_identity(identities: Mapping[str, Identity], key: str) -> Identity:
    """The person of that key.

    Raises:
        ValueError: there is none; the message lists those that are there.
    """
    if key not in identities:
        raise ValueError(f"identity is {key!r}, allowed: {', '.join(sorted(identities)) or 'none'}")
    return identities[key]


class RowGenerator(ABC):
    """Requests in, pictures out, over `denoise_rows`; a baseline says what its rows are."""

    def __init__(self, base: BaseModel, sampler: SamplerConfig, revision: str) -> None:
        self.base, self.sampler, self.revision = base, sampler, revision

    @abstractmethod
    def _rows(
        self, requests: Sequence[GenerationRequest], identities: Mapping[str, Identity]
    ) -> RowBatch:
        """The rows of requests that share size, steps, and guidance on or off."""

    @contextmanager
    def _personalised(self, requests: Sequence[GenerationRequest], halves: int) -> Iterator[None]:
        """Around the denoising of `halves * len(requests)` rows."""
        yield

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        *,
        on_step: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        previews: PreviewHook | None = None,
    ) -> list[GeneratedImage]:
        """See `infinite_id.types.Generator`."""
        alike: dict[tuple, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            check_request(request)
            guided = request.guidance_scale > 1
            size = (request.height, request.width, request.num_inference_steps, guided)
            alike[size].append(number)
        made: dict[int, GeneratedImage] = {}
        for (*_, steps, guided), numbers in alike.items():
            group = [requests[number] for number in numbers]
            begin = time.perf_counter()
            sampler = replace(self.sampler, num_inference_steps=steps)
            with torch.inference_mode(), self._personalised(group, 2 if guided else 1):
                latents = denoise_rows(
                    self.base,
                    self._rows(group, identities),
                    sampler,
                    on_step=on_step,
                    should_stop=should_stop,
                    on_clean=preview_callback(previews, self.base, numbers),
                )
            pictures = self.base.decode(latents)
            seconds = (time.perf_counter() - begin) / len(group)
            for number, request, picture in zip(numbers, group, pictures, strict=True):
                made[number] = GeneratedImage(request.sample_id, picture, seconds)
        return [made[number] for number in range(len(requests))]
