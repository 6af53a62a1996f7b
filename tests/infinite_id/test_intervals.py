"""Steps with guidance, steps with an identity, and latents that a caller changes between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from infinite_id.attention.processors import stream_processors
from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.generator import InfiniteIdGenerator, TextOnlyGenerator
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.sampler.denoise import denoise
from infinite_id.types import Identity
from infinite_id.weights.public_adapters import load_public_adapter
from tests.infinite_id.public_files import write_public
from tests.infinite_id.test_pipeline import OFF, people_batch
from tests.infinite_id.tiny import CLIP_TOKENS, tiny_identity, tiny_request

NAMES = ["ada", "bob", "cy"]


@contextmanager
def rows_of_calls(base: BaseModel) -> Iterator[list[int]]:
    seen: list[int] = []
    handle = base.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0].shape[0]), with_kwargs=True
    )
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("fusion", "sampler", "rows"),
    [
        ({}, {"guidance_steps": (0.0, 0.5)}, [10, 10, 5, 5]),
        ({}, {"guidance_steps": (0.5, 1.0)}, [5, 5, 10, 10]),
        ({"identity_steps": (0.5, 1.0)}, {}, [4, 4, 10, 10]),
        ({"identity_steps": (0.0, 0.5)}, {}, [10, 10, 6, 6]),
        ({"identity_steps": (0.25, 0.75)}, {"guidance_steps": (0.0, 0.5)}, [4, 10, 5, 3]),
        ({"identity_steps": (0.5, 1.0), "fusion": "none"}, {}, [4, 4, 6, 6]),
    ],
)
def test_a_step_costs_the_rows_that_it_needs(
    base: BaseModel,
    adapter: IdentityAdapter,
    fusion: dict[str, Any],
    sampler: dict[str, Any],
    rows: list[int],
) -> None:
    batch = people_batch(adapter, NAMES, seeds=[1, 1, 2])
    with rows_of_calls(base) as seen:
        denoise(base, adapter, batch, FusionConfig(**fusion), SamplerConfig("ddim", 4, **sampler))
    assert seen == rows


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler", "lcm"])
@pytest.mark.parametrize("fusion", ["mixed", "none"])
@pytest.mark.parametrize("steps", [(0.4, 1.0), (0.0, 0.6), (0.2, 0.8)])
def test_a_picture_does_not_depend_on_its_batch_with_an_interval(
    base: BaseModel, adapter: IdentityAdapter, scheduler: Any, fusion: Any, steps: Any
) -> None:
    config = FusionConfig(fusion=fusion, identity_steps=steps)
    sampler = SamplerConfig(scheduler, 5, guidance_steps=(0.3, 1.0))
    values: dict[str, Any] = {"seeds": [2, 1, 2], "prompts": ["a man", "a man", "a woman"]}
    together = denoise(base, adapter, people_batch(adapter, NAMES, **values), config, sampler)
    for row, name in enumerate(NAMES):
        own = {field: [value[row]] for field, value in values.items()}
        alone = denoise(base, adapter, people_batch(adapter, [name], **own), config, sampler)
        found = together.latents[row : row + 1]
        torch.testing.assert_close(found, alone.latents, atol=1e-4, rtol=0)
    whole = denoise(
        base, adapter, people_batch(adapter, NAMES, **values), FusionConfig(fusion=fusion), sampler
    )
    assert (together.latents - whole.latents).abs().max() > 1e-3


def test_before_its_start_an_identity_is_the_text_stream(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    batch, sampler = people_batch(adapter, NAMES, seeds=[1, 1, 2]), SamplerConfig("ddim", 4)
    plain = replace(batch, tokens=None, null_tokens=None)
    seen: dict[str, list[Tensor]] = {"late": [], "plain": []}
    for name, given in (("late", batch), ("plain", plain)):

        def keep(step: int, time: Tensor, latents: Tensor, kept: list = seen[name]) -> None:
            kept.append(latents)

        fusion = FusionConfig(identity_steps=(0.5, 1.0))
        denoise(base, adapter, given, fusion, sampler, on_latents=keep)
    for step in range(4):
        difference = (seen["late"][step] - seen["plain"][step]).abs().max()
        assert (difference < 1e-4) == (step < 2)


@pytest.mark.parametrize("steps", [(0.0, 0.0), (1.0, 1.0)])
def test_an_identity_that_no_step_sees_is_the_plain_model(
    base: BaseModel, adapter: IdentityAdapter, steps: tuple[float, float]
) -> None:
    batch, sampler = people_batch(adapter, NAMES), SamplerConfig("ddim", 3)
    expected = denoise(base, adapter, batch, OFF, sampler).latents
    never = denoise(base, adapter, batch, FusionConfig(identity_steps=steps), sampler)
    torch.testing.assert_close(never.latents, expected, atol=1e-4, rtol=0)


def test_guidance_in_no_step_is_guidance_off(base: BaseModel, adapter: IdentityAdapter) -> None:
    sampler = SamplerConfig("ddim", 3, guidance_steps=(0.0, 0.0))
    never = denoise(base, adapter, people_batch(adapter, NAMES), FusionConfig(), sampler)
    off = people_batch(adapter, NAMES, guidance_scales=[1.0] * 3)
    expected = denoise(base, adapter, off, FusionConfig(), SamplerConfig("ddim", 3))
    torch.testing.assert_close(never.latents, expected.latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["own", "faceid"])
def test_every_request_has_its_own_identity_scale(
    base: BaseModel, adapter: IdentityAdapter, tmp_path: Path, kind: str
) -> None:
    used: Any = adapter
    if kind == "faceid":  # with an update of the attention projections
        path, _ = write_public(tmp_path, base.unet, "faceid")
        used = load_public_adapter(
            path, base.unet, face_width=16, clip_width=24, clip_tokens=CLIP_TOKENS
        )
    scales, names, sampler = [0.0, 0.4, 1.5], ["ada", "bob", "ada"], SamplerConfig("ddim", 3)
    batch = people_batch(used, names, identity_scales=scales)
    for config in (FusionConfig(), FusionConfig(cross_norm="adain_mean")):
        together = denoise(base, used, batch, config, sampler).latents
        for row, scale in enumerate(scales):
            one = people_batch(used, [names[row]])
            fusion = replace(config, identity_scale=scale)
            alone = denoise(base, used, one, fusion, sampler).latents
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)
    with rows_of_calls(base) as seen:
        denoise(base, used, batch, FusionConfig(), sampler)
    # Where the scale changes how texts are seen, texts of different scale are different ones.
    assert seen == ([8] if kind == "own" else [12]) * 3


def test_layers_are_counted_by_depth(base: BaseModel) -> None:
    for cross in (False, True):
        made = [one for one in stream_processors(base.unet).values() if one.cross == cross]
        parts = [one.name.partition("_")[0] for one in sorted(made, key=lambda one: one.position)]
        assert parts == sorted(parts, key=["down", "mid", "up"].index)
        assert "mid" in parts
        places = (np.arange(len(made)) + 0.5) / len(made)
        np.testing.assert_allclose(sorted(one.position for one in made), places)


@pytest.fixture(params=["infinite_id", "text_only"])
def generator(request: Any, base: BaseModel, adapter: IdentityAdapter) -> Any:
    if request.param == "text_only":
        return TextOnlyGenerator(base, FusionConfig(), SamplerConfig(), "")
    fusion = FusionConfig(identity_steps=(0.5, 1.0))
    return InfiniteIdGenerator(base, adapter, fusion, SamplerConfig(), "", clip_tokens=CLIP_TOKENS)


def test_latents_can_be_changed_between_steps(generator: Any, people: dict[str, Identity]) -> None:
    from infinite_id.generator import StepHooks

    requests = [tiny_request(num_inference_steps=4), tiny_request(num_inference_steps=4)]

    def change(step: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
        assert latents.shape == (2, 4, 8, 8)
        if step == 0:
            latents[1] = 0.0  # in place, of one of two equal requests
        return latents

    same = generator.latents(requests, people, StepHooks())
    changed = generator.latents(requests, people, StepHooks(on_latents=change))
    torch.testing.assert_close(same[0], same[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(changed[0], same[0], atol=1e-4, rtol=0)
    assert (changed[1] - same[1]).abs().max() > 1e-2
    with pytest.raises(ValueError, match=r"latents have the shape \(1, 4, 8, 8\), allowed: \(2, 4"):
        generator.latents(requests, people, StepHooks(on_latents=lambda s, t, x: x[:1]))


def test_enough_ends_denoising(generator: Any, people: dict[str, Identity]) -> None:
    from infinite_id.generator import StepHooks

    done: list[int] = []
    kept: list[Tensor] = []
    hooks = StepHooks(
        on_step=lambda step, steps: done.append(step),
        on_latents=lambda step, time, latents: kept.append(latents),
        is_enough=lambda: len(done) == 2,
    )
    request = tiny_request(num_inference_steps=4)
    found = generator.latents([request], people, hooks)
    assert done == [1, 2]
    torch.testing.assert_close(found, kept[-1])


def test_steps_and_guidance_of_the_sampler_are_those_of_requests_without(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    made = InfiniteIdGenerator(
        base, adapter, FusionConfig(), SamplerConfig("euler", 3, 1.0), "", clip_tokens=CLIP_TOKENS
    )
    people = {"ada": tiny_identity("ada")}
    silent = tiny_request(num_inference_steps=None, guidance_scale=None)
    said = tiny_request(num_inference_steps=3, guidance_scale=1.0)
    with rows_of_calls(base) as rows:
        first = made.generate([silent], people)[0].image
    assert rows == [2, 2, 2]
    np.testing.assert_array_equal(first, made.generate([said], people)[0].image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FusionConfig(identity_steps=(0.6, 0.5)), r"identity_steps is \(0.6, 0.5\)"),
        (lambda: SamplerConfig(guidance_steps=(0.0, 1.5)), r"guidance_steps is \(0.0, 1.5\)"),
    ],
)
def test_intervals_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
