"""Speed against quality: settings are read as written, and pairs are with the whole sampler."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.run import load_scenario
from benchmarks.speed_quality import run, with_setting
from infinite_id.config import preset, profiled

ARGUMENTS: dict[str, Any] = load_scenario("speed_quality")["arguments"]


def test_each_setting_of_the_scenario_is_one() -> None:
    own = preset("pocket")
    for setting in ARGUMENTS["settings"].values():
        assert with_setting(own, setting) != own
    assert with_setting(own, {}) == own
    assert with_setting(own, {"profile": "fast"}) == profiled(own, "fast")
    made = with_setting(own, {"profile": "fast", "reuse_steps": 2, "identity_steps": [0.2, 1.0]})
    assert made.sampler.reuse_steps == 2
    assert made.fusion.identity_steps == (0.2, 1.0)
    with pytest.raises(
        ValueError, match="setting has speed, allowed: profile, cpu_dtype, scheduler"
    ):
        with_setting(own, {"speed": 2})


def test_a_setting_that_leaves_nothing_out_loses_nothing() -> None:
    small = {"people": 2, "prompts": 1, "steps": 2, "threads": 1}
    settings = {"same": {"reuse_steps": 1}, "one_step": {"num_inference_steps": 1}}
    figures = run(ARGUMENTS | small | {"settings": settings})
    assert figures["same/pixels"] == figures["same/text_lost"] == 0
    assert figures["same/text_lost_low"] == figures["same/text_lost_high"] == 0
    assert figures["one_step/pixels"] > 0.005
    assert figures["one_step/text_lost"] == pytest.approx(
        figures["full/text"] - figures["one_step/text"]
    )
    assert figures["full/speed"] == 1
