"""The two-stream sampler against diffusers' own pipelines."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.sampler.batch import DenoisedBatch, StreamBatch
from infinite_id.sampler.denoise import denoise
from infinite_id.types import CancelledError
from tests.infinite_id.tiny import CLIP_TOKENS, tiny_base, tiny_identity

FUSIONS = ("mixed", "mutual", "none")
NORMS = ("adain_mean", "adain", "none")
OFF = FusionConfig(fusion="none", self_norm="none", cross_norm="none", identity_scale=0.0)


def people_batch(adapter: IdentityAdapter, names: Sequence[str], **values: Any) -> StreamBatch:
    count = len(names)
    fields: dict[str, Any] = {
        "prompts": ["a man on the beach"] * count,
        "negative_prompts": ["blurry"] * count,
        "seeds": [7] * count,
        "guidance_scales": [5.0] * count,
        "height": 16,
        "width": 16,
        "null_tokens": adapter.null_tokens(CLIP_TOKENS),
    }
    tokens = [adapter.tokens(tiny_identity(name).embedding) for name in names]
    return StreamBatch(**{"tokens": tokens, **fields, **values})


def sample(
    base: BaseModel,
    adapter: IdentityAdapter | None,
    batch: StreamBatch,
    fusion: FusionConfig | None = None,
    sampler: SamplerConfig | None = None,
    **hooks: Any,
) -> DenoisedBatch:
    sampler = sampler or SamplerConfig(num_inference_steps=3)
    return denoise(base, adapter, batch, fusion or FusionConfig(), sampler, **hooks)


def diffusers_latents(base: BaseModel, batch: StreamBatch, sampler: SamplerConfig) -> Tensor:
    """What `StableDiffusionXLPipeline` makes of the batch's texts, seeds and guidance."""
    pipe = base.pipeline
    former = pipe.scheduler
    pipe.scheduler = base.scheduler(sampler.scheduler, sampler.num_inference_steps)
    noise = [
        torch.randn(
            (4, batch.height // base.vae_factor, batch.width // base.vae_factor),
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in batch.seeds
    ]
    # None and not "" is what this class zeroes.
    negatives = [text or None for text in batch.negative_prompts]
    try:
        with torch.no_grad():
            return pipe(
                prompt=list(batch.prompts),
                negative_prompt=None if negatives[0] is None else negatives,
                num_inference_steps=sampler.num_inference_steps,
                guidance_scale=batch.guidance_scales[0],
                height=batch.height,
                width=batch.width,
                latents=torch.stack(noise),
                output_type="latent",
            ).images
    finally:
        pipe.scheduler = former


@pytest.mark.parametrize("size", [(16, 16), (24, 16)])
@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler", "euler_trailing", "unipc"])
@pytest.mark.parametrize(("guidance", "negative"), [(5.0, "blurry"), (5.0, ""), (1.0, "")])
def test_identity_off_equals_the_plain_pipeline(
    base: BaseModel,
    adapter: IdentityAdapter,
    size: tuple[int, int],
    scheduler: Any,
    guidance: float,
    negative: str,
) -> None:
    batch = people_batch(
        adapter,
        ["ada", "bob"],
        height=size[0],
        width=size[1],
        guidance_scales=[guidance] * 2,
        negative_prompts=[negative] * 2,
        prompts=["a man on the beach", "a woman in the snow"],
        seeds=[3, 4],
    )
    sampler = SamplerConfig(scheduler, 4)
    expected = diffusers_latents(base, batch, sampler)
    found = sample(base, adapter, batch, OFF, sampler).latents
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("fusion", ["mixed", "mutual"])
def test_text_stream_is_the_plain_pipeline_whatever_the_identities(
    base: BaseModel, adapter: IdentityAdapter, count: int, fusion: Any
) -> None:
    batch = people_batch(adapter, ["ada", "bob", "cy"][:count])
    found = sample(base, adapter, batch, FusionConfig(fusion=fusion, identity_scale=2.0))
    assert found.text_latents is not None
    expected = diffusers_latents(
        base,
        replace(batch, prompts=batch.prompts[:1], negative_prompts=["blurry"], seeds=[7]),
        SamplerConfig(num_inference_steps=3),
    )
    torch.testing.assert_close(found.text_latents, expected, atol=1e-4, rtol=0)
    assert (found.latents - expected).abs().max() > 1e-2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_shared_text_streams_equal_separate_ones(
    base: BaseModel, adapter: IdentityAdapter, fusion: Any, norm: Any
) -> None:
    config = FusionConfig(fusion=fusion, self_norm=norm, cross_norm=norm)
    names = ["ada", "bob", "cy"]
    together = sample(base, adapter, people_batch(adapter, names), config)
    alone = [sample(base, adapter, people_batch(adapter, [name]), config) for name in names]
    assert together.groups == (0, 0, 0)
    expected = torch.cat([one.latents for one in alone])
    torch.testing.assert_close(together.latents, expected, atol=1e-4, rtol=0)
    distances = torch.cdist(expected.flatten(1), expected.flatten(1))
    assert distances[~torch.eye(3, dtype=torch.bool)].min() > 1e-2


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_of_several_text_groups(
    base: BaseModel, adapter: IdentityAdapter, norm: Any
) -> None:
    config, names = FusionConfig(cross_norm=norm), ["ada", "bob", "cy", "dee"]
    values: dict[str, Any] = {
        "prompts": ["a man", "a woman", "a man", "a man"],
        "negative_prompts": ["", "", "blurry", ""],
        "seeds": [1, 1, 1, 1],
    }
    batch = people_batch(adapter, names, **values)
    together = sample(base, adapter, batch, config)
    assert together.groups == (0, 1, 2, 0)
    for row, name in enumerate(names):
        own = {field: [value[row]] for field, value in values.items()}
        alone = sample(base, adapter, people_batch(adapter, [name], **own), config).latents
        torch.testing.assert_close(together.latents[row : row + 1], alone, atol=1e-4, rtol=0)


def test_requests_of_different_guidance_do_not_share_a_text_stream(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    names, scales = ["ada", "bob"], [2.0, 9.0]
    together = sample(base, adapter, people_batch(adapter, names, guidance_scales=scales))
    assert together.groups == (0, 1)
    for row in range(2):
        own = people_batch(adapter, [names[row]], guidance_scales=[scales[row]])
        alone = sample(base, adapter, own).latents
        torch.testing.assert_close(together.latents[row : row + 1], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("guidance", "fusion", "rows"), [(5.0, "mixed", 10), (1.0, "mixed", 5), (5.0, "none", 6)]
)
def test_one_unet_call_a_step_of_text_and_identity_rows(
    base: BaseModel, adapter: IdentityAdapter, guidance: float, fusion: Any, rows: int
) -> None:
    seen: list[int] = []
    handle = base.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0].shape[0]), with_kwargs=True
    )
    batch = people_batch(
        adapter, ["ada", "bob", "cy"], seeds=[1, 1, 2], guidance_scales=[guidance] * 3
    )
    sample(base, adapter, batch, FusionConfig(fusion=fusion))
    handle.remove()
    assert seen == [rows] * 3


def test_more_photos_in_one_row_than_in_another(base: BaseModel, adapter: IdentityAdapter) -> None:
    tokens = [adapter.tokens(tiny_identity("ada", photos=photos).embedding) for photos in (1, 3, 2)]
    together = sample(base, adapter, people_batch(adapter, ["ada"] * 3, tokens=tokens)).latents
    for row, own in enumerate(tokens):
        alone = sample(base, adapter, people_batch(adapter, ["ada"], tokens=[own])).latents
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_fusion_outside_its_range_of_steps_or_layers_is_none(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    batch = people_batch(adapter, ["ada"])
    none = sample(base, adapter, batch, FusionConfig(fusion="none")).latents
    # No step's or layer's middle lies in these.
    no_steps = sample(base, adapter, batch, FusionConfig(steps=(0.0, 0.01))).latents
    no_layers = sample(base, adapter, batch, FusionConfig(layers=(0.0, 0.01))).latents
    torch.testing.assert_close(no_steps, none, atol=1e-4, rtol=0)
    torch.testing.assert_close(no_layers, none, atol=1e-4, rtol=0)
    half = sample(base, adapter, batch, FusionConfig(layers=(0.5, 1.0))).latents
    whole = sample(base, adapter, batch).latents
    assert (half - none).abs().max() > 1e-3
    assert (half - whole).abs().max() > 1e-3


def test_unconditional_rows_can_stay_unfused(base: BaseModel, adapter: IdentityAdapter) -> None:
    batch = people_batch(adapter, ["ada", "bob"])
    config = FusionConfig(unconditional=False)
    found = sample(base, adapter, batch, config)
    fused = sample(base, adapter, batch)
    plain = sample(base, adapter, batch, replace(config, fusion="none"))
    assert (found.latents - fused.latents).abs().max() > 1e-3
    assert (found.latents - plain.latents).abs().max() > 1e-3
    alone = sample(base, adapter, people_batch(adapter, ["bob"]), config)
    torch.testing.assert_close(found.latents[1:], alone.latents, atol=1e-4, rtol=0)


def test_steps_are_reported_and_can_be_stopped(base: BaseModel, adapter: IdentityAdapter) -> None:
    batch = people_batch(adapter, ["ada"])
    done: list[tuple[int, int]] = []
    before = dict(base.unet.attn_processors)
    with pytest.raises(CancelledError, match="after 2 of 3 steps"):
        sample(
            base,
            adapter,
            batch,
            on_step=lambda step, steps: done.append((step, steps)),
            should_stop=lambda: len(done) == 2,
        )
    assert done == [(1, 3), (2, 3)]
    assert base.unet.attn_processors == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 18}, "height is 18, allowed: a multiple of 4"),
        ({"width": 0}, "width is 0, allowed: a multiple of 4"),
        ({"width": 160000}, "width is 160000, allowed: a multiple of 4, at most 8192"),
        ({"prompts": ["word " * 90]}, "has .* tokens, allowed: 64"),
        ({"null_tokens": None}, "null_tokens"),
        ({"tokens": [torch.full((7, 64), float("nan"))]}, "identity tokens of request 0"),
        ({"tokens": [torch.zeros(7, 32)]}, r"shape \(7, 32\), allowed: \(T, 64\)"),
    ],
)
def test_bad_input(
    base: BaseModel, adapter: IdentityAdapter, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sample(base, adapter, people_batch(adapter, ["ada"], **values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_close_to_single(
    base: BaseModel, adapter: IdentityAdapter, dtype: torch.dtype
) -> None:
    expected = sample(base, adapter, people_batch(adapter, ["ada", "bob"])).latents
    half = tiny_base()
    half.pipeline.to(dtype)
    lower = copy.deepcopy(adapter).to(dtype)
    found = sample(half, lower, people_batch(lower, ["ada", "bob"])).latents
    # The scheduler keeps its latents in single precision, whatever the UNet's.
    assert found.dtype == torch.float32
    error = (found - expected).square().mean().sqrt()
    assert 0 < error < 0.1 * expected.std()
    assert error < 0.25 * (expected[0] - expected[1]).square().mean().sqrt()
