"""Settings of a preset take effect, and an ablation stays one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infinite_id.config import FusionConfig, SamplerConfig, preset
from infinite_id.factories import fusion_of
from infinite_id.methods import METHODS, load_generators
from infinite_id.types import Generator
from tests.infinite_id.baselines.conftest import person
from tests.infinite_id.tiny import tiny_identity, tiny_request


def test_a_presets_fusion_is_the_methods_but_for_what_the_method_sets() -> None:
    fusion = FusionConfig(identity_scale=0.7, self_norm="adain", layers=(0.2, 0.8))
    family = replace(preset("pocket"), fusion=fusion)
    made = {name: fusion_of(METHODS[name], family) for name in METHODS if "infinite" in name}
    assert made["infinite_id"] == fusion
    assert made["infinite_id_mutual"] == replace(fusion, fusion="mutual")
    assert made["infinite_id_no_adain"] == replace(fusion, self_norm="none")
    assert fusion_of(METHODS["ip_adapter"], family) == replace(
        fusion, fusion="none", self_norm="none"
    )


def test_generators_are_made_with_them() -> None:
    names = ["infinite_id", "infinite_id_mutual", "ip_adapter"]
    strong = replace(preset("pocket"), fusion=FusionConfig(identity_scale=0.25))
    sampler = SamplerConfig("euler", 2, 1.0)
    plain: dict[str, Any] = load_generators(names, preset("pocket"))
    made: dict[str, Any] = load_generators(names, strong, sampler=sampler)
    for name in names:
        assert made[name].fusion == replace(plain[name].fusion, identity_scale=0.25)
        assert made[name].sampler == sampler
        assert made[name].revision != plain[name].revision


@pytest.mark.parametrize("method", ["photomaker"])
def test_baselines_refuse_what_they_have_not(method: str) -> None:
    family = preset("pocket")
    made: dict[str, Generator] = load_generators([method], family)
    ada = {"ada": tiny_identity("ada")}
    request = tiny_request(method=method, height=64, width=64, identity_scale=0.5)
    with pytest.raises(ValueError, match=r"identity_scale is 0.5, allowed with .*: 1$"):
        made[method].generate([request], ada)


@pytest.mark.parametrize(
    ("settings", "rows", "inner"),
    [
        ({"guidance_steps": (0.0, 0.5)}, [4, 4, 2, 2], 4),
        # The first step has the text without the person: the second begins anew.
        ({"reuse_steps": 2}, [4, 4, 4, 4], 3),
    ],
)
def test_baselines_have_the_samplers_intervals_too(
    settings: dict[str, Any], rows: list[int], inner: int
) -> None:
    sampler = SamplerConfig("ddim", 4, 1.5, **settings)
    made: Any = load_generators(["photomaker"], preset("pocket"), sampler=sampler)["photomaker"]
    seen: dict[str, list[int]] = {"conv_in": [], "mid_block": []}
    handles = [
        getattr(made.base.unet, name).register_forward_hook(
            lambda module, args, out, seen=seen[name]: seen.append(len(out))
        )
        for name in seen
    ]
    one = tiny_request(method="photomaker", height=64, width=64)
    requests = [replace(one, sample_id=name, num_inference_steps=4) for name in "ab"]
    try:
        made.generate(requests, {"ada": person("ada", 1)})
    finally:
        for handle in handles:
            handle.remove()
    assert seen["conv_in"] == rows
    assert len(seen["mid_block"]) == inner
