from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.run import load_scenario, scenario_names
from benchmarks.two_pass import two_pass
from benchmarks.two_stream import run
from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.sampler.batch import StreamBatch
from infinite_id.sampler.denoise import denoise
from tests.infinite_id.conftest import adapter, base  # noqa: F401 -- fixtures
from tests.infinite_id.tiny import CLIP_TOKENS, tiny_identity


def test_the_obvious_implementation_gives_the_same_latents(
    base: BaseModel,  # noqa: F811
    adapter: IdentityAdapter,  # noqa: F811
) -> None:
    """Two programs that share no attention code: a second proof of the sampler."""
    batch = StreamBatch(
        prompts=["a man", "a man", "a woman"],
        negative_prompts=["blurry"] * 3,
        seeds=[1, 1, 2],
        guidance_scales=[5.0] * 3,
        height=16,
        width=16,
        tokens=[adapter.tokens(tiny_identity(name).embedding) for name in ("ada", "bob", "cy")],
        null_tokens=adapter.null_tokens(CLIP_TOKENS),
    )
    sampler = SamplerConfig(num_inference_steps=3)
    expected = two_pass(base, adapter, batch, sampler)
    found = denoise(base, adapter, batch, FusionConfig(), sampler).latents
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_short_run_has_every_figure_that_is_required() -> None:
    scenario = load_scenario("two_stream")
    short = {"counts": [2], "steps": 1, "repeats": 1, "size": 32, "threads": 1}
    figures = run(scenario["arguments"] | short)
    assert {"speedup_2", "cost_against_ip_adapter_2", "two_stream_images_per_s_2"} <= set(figures)
    assert 0 < figures["share_in_unet_2"] < 1
    assert 0 < figures["model_flop_utilisation_2"] < 2


def test_the_sdxl_scenario_runs_with_fewer_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import two_stream

    config = json.loads(two_stream._SDXL_UNET.read_text())
    config |= {
        "block_out_channels": [32, 32, 64],
        "attention_head_dim": [1, 2, 4],
        "transformer_layers_per_block": [1, 1, 1],
        "layers_per_block": 1,
    }
    (tmp_path / "unet.json").write_text(json.dumps(config))
    monkeypatch.setattr(two_stream, "_SDXL_UNET", tmp_path / "unet.json")
    short = {"counts": [1], "steps": 1, "repeats": 1, "size": 64, "threads": 1, "device": "cpu"}
    arguments = load_scenario("two_stream_sdxl")["arguments"] | short | {"dtype": "float32"}
    assert run(arguments)["two_stream_images_per_s_1"] > 0


@pytest.mark.parametrize("name", scenario_names())
def test_scenarios_are_whole(name: str) -> None:
    scenario = load_scenario(name)
    assert {"title", "module", "arguments"} <= set(scenario)
    assert all("figure" in requirement for requirement in scenario.get("requirements", []))
