"""Features kept between steps: equal where they must be, and nothing left in the model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from infinite_id.attention.processors import install, self_attention_layers
from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.pocket import model as pocket
from infinite_id.sampler.denoise import denoise
from infinite_id.sampler.reuse import Reuse
from tests.infinite_id.test_attention import context
from tests.infinite_id.test_pipeline import people_batch
from tests.infinite_id.tiny import tiny_unet

# SDXL's layout: no attention outside, several layers a block.
SDXL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 64),
    "attention_head_dim": (2, 4, 4),
    "transformer_layers_per_block": (1, 2, 2),
    "layers_per_block": 2,
}
LAYOUTS: dict[str, Callable[[], Any]] = {
    "tiny": tiny_unet,
    "sdxl": lambda: tiny_unet(**SDXL),
    "pocket_64": lambda: pocket.build_unet(64),
    "pocket_96": lambda: pocket.build_unet(96),
}


def inputs(unet: Any, seed: int = 0) -> tuple[Tensor, dict[str, Any]]:
    config, generator = unet.config, torch.Generator().manual_seed(seed)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    side = config.sample_size
    added = {"text_embeds": noise(2, pooled), "time_ids": torch.full((2, 6), 64.0)}
    return noise(2, config.in_channels, side, side), {
        "encoder_hidden_states": noise(2, 7, config.cross_attention_dim),
        "added_cond_kwargs": added,
        "cross_attention_kwargs": {},
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_a_whole_step_and_one_over_fresh_features_are_the_unets_own(layout: str) -> None:
    unet = LAYOUTS[layout]().eval()
    sample, arguments = inputs(unet)
    expected = unet(sample, torch.tensor(500), **arguments, return_dict=False)[0]
    ran: list[str] = []
    for name, block in (("in", unet.down_blocks[0]), ("mid", unet.mid_block)):
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
    reuse = Reuse(unet, 2)
    for _ in range(3):
        assert torch.equal(reuse("same", sample, torch.tensor(500), **arguments), expected)
    assert ran == ["in", "mid", "in", "in", "mid"]
    other = reuse("same", inputs(unet, 1)[0], torch.tensor(300), **arguments)
    assert ran[5:] == ["in"]
    assert not torch.equal(other, unet(inputs(unet, 1)[0], torch.tensor(300), **arguments)[0])


def latents(base: BaseModel, adapter: IdentityAdapter, reuse: int, **values: Any) -> Tensor:
    batch = people_batch(adapter, ["ada", "bob", "cy"], seeds=[1, 1, 2])
    fusion = FusionConfig(**values.pop("fusion", {}))
    sampler = SamplerConfig("ddim", 6, reuse_steps=reuse, **values)
    return denoise(base, adapter, batch, fusion, sampler).latents


def test_each_step_whole_is_the_plain_sampler_and_the_model_stays_as_it_was(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    plain = latents(base, adapter, 1)
    before = dict(base.unet.attn_processors)
    kept = latents(base, adapter, 3)
    assert 1e-4 < (kept - plain).abs().max() < (plain - plain.roll(1, 0)).abs().max()
    assert base.unet.attn_processors == before
    assert torch.equal(latents(base, adapter, 1), plain)


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        ({}, [0, 3]),
        ({"guidance_steps": (0.0, 0.3)}, [0, 2, 5]),
        ({"fusion": {"identity_steps": (0.3, 0.7)}}, [0, 2, 4]),
        ({"fusion": {"steps": (0.0, 0.7)}}, [0, 3, 4]),
    ],
)
def test_steps_of_another_kind_are_whole(
    base: BaseModel, adapter: IdentityAdapter, values: dict[str, Any], whole: list[int]
) -> None:
    calls: list[str] = []
    parts = {"in": base.unet.conv_in, "mid": base.unet.mid_block}
    handles = [
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, part in parts.items()
    ]
    try:
        latents(base, adapter, 3, **values)
    finally:
        for handle in handles:
            handle.remove()
    steps = " ".join(calls).split("in")[1:]
    assert [number for number, step in enumerate(steps) if "mid" in step] == whole


def test_threads_keep_their_features_apart(base: BaseModel, adapter: IdentityAdapter) -> None:
    expected = {every: latents(base, adapter, every) for every in (1, 2, 3)}
    found: dict[int, Tensor] = {}
    threads = [
        threading.Thread(target=lambda k=k: found.update({k: latents(base, adapter, k)}))
        for k in expected
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for every, wanted in expected.items():
        torch.testing.assert_close(found[every], wanted, atol=1e-5, rtol=0)


def test_the_number_is_checked() -> None:
    with pytest.raises(ValueError, match="reuse_steps is 0, allowed: 1 or more"):
        SamplerConfig(reuse_steps=0)


def test_text_streams_in_every_second_step_leave_half_of_their_rows_out(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    rows: list[int] = []
    handle = base.unet.register_forward_pre_hook(
        lambda _, given, __: rows.append(len(given[0])), with_kwargs=True
    )
    try:
        plain = latents(base, adapter, 1)
        whole = list(rows)
        rows.clear()
        kept = latents(base, adapter, 1, text_every=2)
        assert rows == [whole[0], 6] * 3
        rows.clear()
        latents(base, adapter, 1, text_every=2, guidance_steps=(0.0, 0.3))
        # Where guidance ends the text streams run: what was kept has other rows.
        assert rows == [whole[0], 6, 5, 3, 5, 3]
    finally:
        handle.remove()
    assert whole == [10] * 6
    assert 1e-4 < (kept - plain).abs().max() < (plain - plain.roll(1, 0)).abs().max()


@torch.inference_mode()
def test_identity_rows_over_what_is_kept_are_those_beside_their_text_rows(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    unet = base.unet
    sample, arguments = inputs(unet)
    sample, identities = torch.cat([sample, sample.flip(0)])[:3], slice(1, 3)
    given = arguments["added_cond_kwargs"]
    added = {name: torch.cat([one, one])[:3] for name, one in given.items()}
    hidden = torch.cat([arguments["encoder_hidden_states"]] * 2)[:3]
    kept: dict[str, Any] = {}
    whole = context(unet, adapter, kept=kept)

    def call(rows: slice, streams: Any) -> Tensor:
        return unet(
            sample[rows],
            torch.tensor(500),
            encoder_hidden_states=hidden[rows],
            added_cond_kwargs={name: one[rows] for name, one in added.items()},
            cross_attention_kwargs={"streams": streams},
        ).sample

    with install(unet):
        expected = call(slice(0, 3), whole)
        found = call(identities, replace(whole, text_rows=0))
        alone = call(identities, replace(whole, text_rows=0, kept=None))
    assert len(kept) == len(self_attention_layers(unet))
    torch.testing.assert_close(found, expected[identities])
    assert (alone - expected[identities]).abs().max() > 1e-4


@pytest.mark.parametrize("fusion", ["mixed", "mutual", "none"])
@pytest.mark.parametrize("unconditional", [True, False])
def test_every_fusion_reads_what_is_kept(
    base: BaseModel, adapter: IdentityAdapter, fusion: str, unconditional: bool
) -> None:
    own = {"fusion": fusion, "unconditional": unconditional}
    plain = latents(base, adapter, 1, fusion=dict(own))
    kept = latents(base, adapter, 1, fusion=dict(own), text_every=3)
    # Without fusion there are no text streams, and nothing to leave out.
    assert torch.equal(plain, kept) == (fusion == "none")
    assert torch.isfinite(kept).all()


def test_text_every_of_nought_is_refused() -> None:
    with pytest.raises(ValueError, match="text_every is 0, allowed: 1 or more"):
        SamplerConfig(text_every=0)


@pytest.mark.slow
def test_compiled_code_keeps_what_plain_code_keeps(
    base: BaseModel, adapter: IdentityAdapter
) -> None:
    plain = latents(base, adapter, 1, text_every=2)
    base.unet.compile(fullgraph=True, backend="eager")
    try:
        first = latents(base, adapter, 1, text_every=2)
        graphs = counters["stats"]["unique_graphs"]
        again = latents(base, adapter, 1, text_every=2)
    finally:
        base.unet._compiled_call_impl = None
    assert torch.equal(first, plain)
    assert torch.equal(again, plain)
    assert counters["stats"]["unique_graphs"] == graphs
