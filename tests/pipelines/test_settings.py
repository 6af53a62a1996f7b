"""Settings are typed; a wrong key or value is one sentence."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from infinite_id.config import preset
from infinite_id.details_config import DetailsConfig
from pipelines.plan.weights import run_weights
from pipelines.settings import load_config
from pipelines.stages.phases import generation_pool
from pipelines.stages.stage import Stage, check_stages


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("preset: pocket\nseeds: '0:2'\nbatch_size: 4\n")
    config = load_config(str(path), seeds="5", limit=None)
    assert (config.seeds, config.batch_size, config.limit) == ("5", 4, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sedes: '0'", "unknown key 'sedes', allowed: preset"),
        ("resources: {gpu: 1}", "unknown key 'resources.gpu', allowed: face_actors"),
        ("preset: huge", "preset is 'huge': allowed: pocket, sdxl"),
        ("methods: [magic]", "unknown method 'magic', allowed: "),
        ("methods: [infinite_id, infinite_id]", "a method stands twice"),
        ("batch_size: 0", "batch_size is 0: input should be greater than or equal to 1"),
        ("guidance_scale: .nan", "guidance_scale is nan"),
        ("seeds: x", "seeds is 'x'"),
        ("image_format: gif", "image_format is 'gif': allowed: png, webp, jpeg"),
        ("[1]", "is a list, allowed: a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_faults_are_one_sentence(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"config file none\.yaml does not exist"):
        load_config("none.yaml")


CORES = {1: 4.0, 2: 4.0, 4: 4.0, 8: 8.0, 16: 16.0}
"""Cores of a machine -> logical CPUs of the Ray that starts there by itself."""


@pytest.mark.parametrize(
    ("cores", "units", "actors", "threads"),
    [
        (2, 8, 1, 2),  # the demo: loading a second actor would take as long as it saves
        (2, 12, 2, 1),
        (2, 10_000, 2, 1),
        (1, 10_000, 1, 1),
        (4, 10_000, 2, 2),  # a scoring actor and half a CPU are kept free
        (8, 10_000, 6, 1),
        (16, 8, 1, 4),
    ],
)
def test_long_runs_on_a_cpu_get_an_actor_a_core(monkeypatch, cores, units, actors, threads):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    config = load_config()
    found = generation_pool(config, preset("pocket"), units, {"CPU": CORES[cores]})
    assert found == (actors, threads)
    stage = Stage("images", object, concurrency=found[0], num_cpus=1.0)
    scores = Stage("scores", object, concurrency=1, num_cpus=config.resources.scoring_cpus)
    check_stages([stage, scores], ["unit"], {"CPU": CORES[cores]})


@pytest.mark.parametrize(
    ("values", "family", "actors"),
    [
        ({"preset": "sdxl"}, "sdxl", 8),
        ({"preset": "sdxl", "resources": {"scoring_actors": 4, "scoring_gpus": 0.25}}, "sdxl", 7),
        ({"preset": "sdxl", "resources": {"generation_gpus": 0.2}}, "sdxl", 40),
        ({"preset": "sdxl", "resources": {"generation_gpus": 0}}, "sdxl", 1),
        ({"resources": {"generation_gpus": 1, "generation_cpus": 20}}, "pocket", 3),
        ({"methods": ["timed"]}, "pocket", 1),
    ],
)
def test_every_gpu_gets_an_actor_unless_told_otherwise(values, family, actors):
    plenty = {"CPU": 64.0, "GPU": 8.0}
    assert generation_pool(load_config(**values), preset(family), 10_000, plenty)[0] == actors
    assert generation_pool(load_config(**values), preset(family), 1, plenty)[0] == 1
    resources = values.get("resources", {}) | {"generation_actors": 5, "threads": 3}
    told = load_config(**(values | {"resources": resources}))
    assert generation_pool(told, preset(family), 1, plenty) == (5, 3)


def test_a_profile_sets_the_sampler_and_what_is_set_besides_counts_more() -> None:
    own = load_config(None).family()
    fast = load_config(None, profile="fast")
    assert fast.family().sampler == replace(
        own.sampler, scheduler="dpmsolver++", num_inference_steps=12
    )
    mixed = load_config(
        None,
        profile="fast",
        num_inference_steps=20,
        guidance_steps=[0.0, 0.5],
        text_every=3,
    )
    assert mixed.family().sampler == replace(
        fast.family().sampler,
        num_inference_steps=20,
        guidance_steps=(0.0, 0.5),
        text_every=3,
    )
    with pytest.raises(ValueError, match="text_every is 3 beside reuse_steps 2, allowed: one of"):
        load_config(None, profile="faster", text_every=3).family()
    assert load_config(None, reuse_steps=2).family().sampler.reuse_steps == 2
    assert load_config(None, profile="full").family() == own
    with pytest.raises(ValueError, match=r"profile is 'quick'.*allowed: full, fast, faster"):
        load_config(None, profile="quick")
    with pytest.raises(ValueError, match=r"guidance_steps .*allowed: 0 <= first <= last <= 1"):
        load_config(None, guidance_steps=[0.5, 0.1])
    revisions = [
        run_weights(one, ["infinite_id", "photomaker"]).revisions for one in (own, fast.family())
    ]
    assert revisions[0]["infinite_id"] != revisions[1]["infinite_id"]
    assert revisions[0]["photomaker"] != revisions[1]["photomaker"]


def test_details_is_a_switch_or_settings():
    assert load_config().family().details is None
    assert load_config(details=True).family().details == DetailsConfig()
    given = load_config(details={"share": 0.4, "least": 12}).family().details
    assert given == DetailsConfig(share=0.4, least=12)
    for value, message in (
        ({"shares": 0.4}, "unknown key 'shares', allowed: share, least, margin, strength, feather"),
        ({"share": 2}, "details share is 2, allowed: more than 0, at most 1"),
        ({"share": "much"}, "share is 'much', allowed: a number"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            load_config(details=value)
