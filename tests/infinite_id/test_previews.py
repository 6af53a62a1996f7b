"""Unfinished pictures: what a step predicts of the last latents."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig, SchedulerKind
from infinite_id.generator import InfiniteIdGenerator, TextOnlyGenerator
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.sampler.batch import StreamBatch
from infinite_id.sampler.denoise import denoise
from infinite_id.sampler.previews import preview_callback
from infinite_id.types import Identity, PreviewHook
from tests.infinite_id.tiny import CLIP_TOKENS, tiny_request


@pytest.mark.parametrize("scheduler", get_args(SchedulerKind))
def test_the_last_prediction_is_the_result(base: BaseModel, scheduler: SchedulerKind) -> None:
    batch = StreamBatch(["a cat", "a dog"], ["", ""], [1, 2], [3.0, 3.0], 16, 16)
    seen: list[torch.Tensor] = []
    done = denoise(
        base,
        None,
        batch,
        FusionConfig(),
        SamplerConfig(scheduler, 4),
        on_clean=lambda step, steps, clean: seen.append(clean),
    )
    assert len(seen) == 4
    errors = [float((clean - done.latents).abs().mean()) for clean in seen]
    assert errors[3] < 0.1 * errors[0]


def test_only_those_who_ask_see_theirs(
    base: BaseModel, adapter: IdentityAdapter, people: dict[str, Identity]
) -> None:
    shown: list[tuple[int, int, tuple[int, ...]]] = []
    hook = PreviewHook(
        wanted=lambda step, steps: [2] if step == 1 else [],
        show=lambda position, step, picture: shown.append((position, step, picture.shape)),
    )
    generator = InfiniteIdGenerator(
        base, adapter, FusionConfig(), SamplerConfig(), "", clip_tokens=CLIP_TOKENS
    )
    # Of two sizes, so that they are denoised apart.
    requests = [tiny_request(identity_id=name) for name in ("ada", "bob", "cy")]
    requests[1] = tiny_request(identity_id="bob", height=24)
    with_previews = generator.generate(requests, people, previews=hook)
    assert shown == [(2, 1, with_previews[2].image.shape)]
    without = generator.generate(requests, people)
    for one, other in zip(with_previews, without, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_large_ones_are_decoded_small(base: BaseModel) -> None:
    shown: list[tuple[int, ...]] = []
    hook = PreviewHook(lambda step, steps: [0], lambda *values: shown.append(values[2].shape))
    on_clean = preview_callback(hook, base, [0])
    assert on_clean is not None
    on_clean(1, 2, torch.zeros(1, 4, 128, 64))
    assert shown == [(32 * base.vae_factor, 16 * base.vae_factor, 3)]


def test_the_text_only_model_shows_its_pictures_in_order(base: BaseModel) -> None:
    shown: dict[int, np.ndarray] = {}
    hook = PreviewHook(
        lambda step, steps: [0, 1] if step == steps else [],
        lambda position, step, picture: shown.update({position: picture}),
    )
    generator = TextOnlyGenerator(base, FusionConfig(), SamplerConfig("euler"), "")
    requests = [tiny_request(seed=1), tiny_request(seed=2)]
    made = generator.generate(requests, {}, previews=hook)
    for position, picture in shown.items():
        difference = np.abs(picture.astype(int) - made[position].image)
        assert difference.mean() < np.abs(picture.astype(int) - made[1 - position].image).mean()
    assert len(shown) == 2
