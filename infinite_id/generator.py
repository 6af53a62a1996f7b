"""Generators: requests in, pictures out, in batches of what can be denoised together."""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.control_image import control_window
from infinite_id.faces.loading import embedded_faces
from infinite_id.identity.adapter import StreamAdapter, request_tokens
from infinite_id.init_image import first_step
from infinite_id.regions import Box
from infinite_id.sampler.batch import StreamBatch
from infinite_id.sampler.denoise import denoise
from infinite_id.sampler.placing import placed
from infinite_id.sampler.previews import preview_callback
from infinite_id.types import (
    GeneratedImage,
    GenerationRequest,
    Identity,
    PreviewHook,
    RefusedRequestsError,
)

__all__ = [
    "InfiniteIdGenerator",
    "LatentGenerator",
    "StepHooks",
    "StreamGenerator",
    "TextOnlyGenerator",
    "boxes_of",
    "settled",
]


@dataclass(frozen=True, slots=True)
class StepHooks:
    """What is asked and told between two steps: see `infinite_id.sampler.denoise.denoise`."""

    on_step: Callable[[int, int], None] | None = None
    should_stop: Callable[[], bool] | None = None
    on_clean: Callable[[int, int, Tensor], None] | None = None
    on_latents: Callable[[int, Tensor, Tensor], Tensor | None] | None = None
    is_enough: Callable[[], bool] | None = None


def settled(request: GenerationRequest, sampler: SamplerConfig) -> GenerationRequest:
    """The request with the sampler's steps and guidance where it has none of its own.

    Raises:
        ValueError: steps, guidance, seed, identity scale or a picture are not usable; names the
            value.
    """
    steps, guidance = request.num_inference_steps, request.guidance_scale
    steps = sampler.num_inference_steps if steps is None else steps
    guidance = sampler.guidance_scale if guidance is None else guidance
    if steps < 1:
        raise ValueError(f"num_inference_steps is {steps}, allowed: 1 or more")
    if not 0 <= guidance < math.inf:
        raise ValueError(f"guidance_scale is {guidance}, allowed: finite, >= 0")
    if not 0 <= request.seed < 2**63:
        raise ValueError(f"seed is {request.seed}, allowed: 0 to 2**63 - 1")
    if request.identity_scale is not None and not math.isfinite(request.identity_scale):
        raise ValueError(f"identity_scale is {request.identity_scale}, allowed: a finite number")
    if request.init_image is not None:
        request.init_image.check(request.height, request.width, steps)
    if request.control_image is not None:
        request.control_image.check(request.height, request.width)
    return replace(request, num_inference_steps=steps, guidance_scale=guidance)


def boxes_of(request: GenerationRequest) -> tuple[Box, ...] | None:
    """The boxes of a group's people; None: nobody's, or masks."""
    regions = () if request.group is None else request.group.regions or ()
    boxes = tuple(one for one in regions if not isinstance(one, np.ndarray))
    return boxes if boxes and len(boxes) == len(regions) else None


class LatentGenerator(ABC):
    """Groups requests that can be denoised together and puts the pictures in order.

    Args:
        base: the text-to-image model.
        sampler: scheduler; steps and guidance of requests that do not say.
        revision: names weights and settings.
    """

    def __init__(self, base: BaseModel, sampler: SamplerConfig, revision: str) -> None:
        self.base, self.sampler, self.revision = base, sampler, revision

    def sampled(self, sampler: SamplerConfig) -> Self:
        """The same weights with another sampler."""
        other = copy.copy(self)
        other.sampler = sampler
        return other

    @abstractmethod
    def _denoised(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        sampler: SamplerConfig,
        hooks: StepHooks,
    ) -> Tensor:
        """Latents (N, C, h, w) of settled requests of one group of `alike`."""

    def alike(
        self, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[list[int], list[GenerationRequest]]]:
        """What can be denoised together: numbers of requests, and those requests, settled.

        Raises:
            ValueError: a value of a request is out of range.
        """
        groups: dict[tuple, list[int]] = defaultdict(list)
        every = [settled(request, self.sampler) for request in requests]
        for number, one in enumerate(every):
            (guidance,) = self.guidance_scales([one])
            steps = one.num_inference_steps or self.sampler.num_inference_steps
            first = first_step(one.init_image, steps)
            key: tuple = (one.height, one.width, steps, first, guidance > 1)
            if self.sampler.reuse_steps > 1:
                # Where a control begins or ends, the steps of all rows are whole.
                key += control_window(one.control_image)
            groups[key].append(number)
        for numbers in groups.values():
            yield numbers, [every[number] for number in numbers]

    def guidance_scales(self, requests: Sequence[GenerationRequest]) -> list[float]:
        """Of each request, the sampler's where it has none of its own."""
        own = self.sampler.guidance_scale
        return [own if r.guidance_scale is None else r.guidance_scale for r in requests]

    def placed(
        self, requests: Sequence[GenerationRequest], hooks: StepHooks
    ) -> list[GenerationRequest]:
        """Requests of one group of `alike` with a region for each person of a group.

        Raises:
            RefusedRequestsError: this method cannot show a group, or the people of one have no
                place; by numbers in `requests`.
        """
        faults = {
            number: f"identity {request.identity_id!r} is a group, allowed with this method: one "
            "person; Infinite-ID, its ablations and the IP-Adapters take groups"
            for number, request in enumerate(requests)
            if request.group is not None
        }
        if faults:
            raise RefusedRequestsError(faults)
        return list(requests)

    def latents(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        hooks: StepHooks,
    ) -> Tensor:
        """Latents (N, C, h, w) of N requests of one group of `alike`."""
        steps = requests[0].num_inference_steps or self.sampler.num_inference_steps
        sampler = replace(self.sampler, num_inference_steps=steps)
        with torch.inference_mode():
            return self._denoised(requests, identities, sampler, hooks)

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
        made: dict[int, GeneratedImage] = {}
        for numbers, group in self.alike(requests):
            begin = time.perf_counter()
            on_clean = preview_callback(previews, self.base, numbers)
            hooks = StepHooks(on_step, should_stop, on_clean)
            try:
                group = self.placed(group, hooks)
            except RefusedRequestsError as error:
                faults = {numbers[place]: told for place, told in error.faults.items()}
                raise RefusedRequestsError(faults) from None
            pictures = self.base.decode(self.latents(group, identities, hooks))
            seconds = (time.perf_counter() - begin) / len(group)
            for number, request, picture in zip(numbers, group, pictures, strict=True):
                boxes = boxes_of(request)
                made[number] = GeneratedImage(request.sample_id, picture, seconds, boxes)
        return [made[number] for number in range(len(requests))]


class StreamGenerator(LatentGenerator):
    """On the two-stream sampler."""

    def __init__(
        self, base: BaseModel, fusion: FusionConfig, sampler: SamplerConfig, revision: str
    ) -> None:
        super().__init__(base, sampler, revision)
        self.fusion = fusion

    def configured(self, fusion: FusionConfig, sampler: SamplerConfig) -> Self:
        """The same weights with other settings."""
        other = self.sampled(sampler)
        other.fusion = fusion
        return other

    def _denoised(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        sampler: SamplerConfig,
        hooks: StepHooks,
    ) -> Tensor:
        batch = self._batch(requests, identities)
        return denoise(
            self.base,
            self._adapter(),
            batch,
            self.fusion,
            sampler,
            on_step=hooks.on_step,
            should_stop=hooks.should_stop,
            on_clean=hooks.on_clean,
            on_latents=hooks.on_latents,
            is_enough=hooks.is_enough,
        ).latents

    def _adapter(self) -> StreamAdapter | None:
        return None

    def _batch(
        self, requests: Sequence[GenerationRequest], identities: Mapping[str, Identity]
    ) -> StreamBatch:
        own = self.fusion.identity_scale
        scales = [r.identity_scale for r in requests]
        return StreamBatch(
            prompts=[request.prompt for request in requests],
            negative_prompts=[request.negative_prompt for request in requests],
            seeds=[request.seed for request in requests],
            guidance_scales=self.guidance_scales(requests),
            height=requests[0].height,
            width=requests[0].width,
            identity_scales=[own if scale is None else scale for scale in scales],
            init_images=[request.init_image for request in requests],
            control_images=[request.control_image for request in requests],
        )


class TextOnlyGenerator(StreamGenerator):
    """The base model without any identity: the floor of identity, the ceiling of semantics."""

    def placed(
        self, requests: Sequence[GenerationRequest], hooks: StepHooks
    ) -> list[GenerationRequest]:
        """Nobody is shown, so nobody needs a place."""
        return list(requests)


class InfiniteIdGenerator(StreamGenerator):
    """Infinite-ID and its ablations, by their `FusionConfig`."""

    def __init__(
        self,
        base: BaseModel,
        adapter: StreamAdapter,
        fusion: FusionConfig,
        sampler: SamplerConfig,
        revision: str,
        *,
        clip_tokens: int,
    ) -> None:
        """`clip_tokens`: image tokens of one photo, the length of the null identity's."""
        super().__init__(base, fusion, sampler, revision)
        self.adapter, self._clip_tokens = adapter, clip_tokens

    def placed(
        self, requests: Sequence[GenerationRequest], hooks: StepHooks
    ) -> list[GenerationRequest]:
        """See `infinite_id.sampler.placing`; faces are found by the embedded detector."""
        steps = requests[0].num_inference_steps or self.sampler.num_inference_steps
        sampler = replace(self.sampler, num_inference_steps=steps)
        return placed(self.base, requests, sampler, embedded_faces, hooks.should_stop)

    def _adapter(self) -> StreamAdapter:
        return self.adapter

    def _batch(
        self, requests: Sequence[GenerationRequest], identities: Mapping[str, Identity]
    ) -> StreamBatch:
        return replace(
            super()._batch(requests, identities),
            tokens=request_tokens(self.adapter, requests, identities),
            null_tokens=self.adapter.null_tokens(self._clip_tokens),
        )
