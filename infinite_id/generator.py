"""Generators on the two-stream sampler: requests in, pictures out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.identity.adapter import StreamAdapter, request_tokens
from infinite_id.sampler.denoise import StreamBatch, denoise
from infinite_id.sampler.previews import preview_callback
from infinite_id.types import GeneratedImage, GenerationRequest, Identity, PreviewHook

__all__ = ["InfiniteIdGenerator", "TextOnlyGenerator", "check_request"]


def check_request(request: GenerationRequest) -> None:
    """Raises a ValueError that names the value unless steps, guidance and seed are usable."""
    if request.num_inference_steps < 1:
        raise ValueError(
            f"num_inference_steps is {request.num_inference_steps}, allowed: 1 or more"
        )
    if not 0 <= request.guidance_scale < float("inf"):
        raise ValueError(f"guidance_scale is {request.guidance_scale}, allowed: finite, >= 0")
    if not 0 <= request.seed < 2**63:
        raise ValueError(f"seed is {request.seed}, allowed: 0 to 2**63 - 1")


class _StreamGenerator:
    """Groups requests that can be denoised together and puts the pictures in order."""

    def __init__(
        self, base: BaseModel, fusion: FusionConfig, sampler: SamplerConfig, revision: str
    ) -> None:
        self.base, self.fusion, self.sampler, self.revision = base, fusion, sampler, revision

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
            alike[
                (
                    request.height,
                    request.width,
                    request.num_inference_steps,
                    request.guidance_scale > 1,
                )
            ].append(number)
        made: dict[int, GeneratedImage] = {}
        for numbers in alike.values():
            group = [requests[number] for number in numbers]
            begin = time.perf_counter()
            sampler = replace(self.sampler, num_inference_steps=group[0].num_inference_steps)
            with torch.inference_mode():
                batch = self._batch(group, identities)
                result = denoise(
                    self.base,
                    self._adapter(),
                    batch,
                    self.fusion,
                    sampler,
                    on_step=on_step,
                    should_stop=should_stop,
                    on_clean=preview_callback(previews, self.base, numbers),
                )
                pictures = self.base.decode(result.latents)
            seconds = (time.perf_counter() - begin) / len(group)
            for number, request, picture in zip(numbers, group, pictures, strict=True):
                made[number] = GeneratedImage(request.sample_id, picture, seconds)
        return [made[number] for number in range(len(requests))]

    def _adapter(self) -> StreamAdapter | None:
        return None

    def _batch(
        self, requests: Sequence[GenerationRequest], identities: Mapping[str, Identity]
    ) -> StreamBatch:
        return StreamBatch(
            prompts=[request.prompt for request in requests],
            negative_prompts=[request.negative_prompt for request in requests],
            seeds=[request.seed for request in requests],
            guidance_scales=[request.guidance_scale for request in requests],
            height=requests[0].height,
            width=requests[0].width,
        )


class TextOnlyGenerator(_StreamGenerator):
    """The base model without any identity: the floor of identity, the ceiling of semantics."""


class InfiniteIdGenerator(_StreamGenerator):
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
