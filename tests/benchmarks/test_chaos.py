"""The short form of the chaos benchmark: one run that loses an actor and then a whole node."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.run import load_scenario
from benchmarks.without_ray import undisturbed
from infinite_id.methods import METHODS
from infinite_id.timed_config import TimedConfig

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_killed_actor_and_a_killed_node_lose_and_double_nothing(tmp_path, monkeypatch):
    from benchmarks.chaos import trial
    from benchmarks.chaos_cluster import cluster
    from benchmarks.crowd import crowd_config
    from pipelines.run.environment import quiet

    quiet()
    small = {"people": 8, "prompts": 2, "styles": 2, "seeds": 2, "batch_size": 4}
    arguments = load_scenario("chaos")["arguments"] | small
    # This process read the environment when it imported METHODS.
    monkeypatch.setenv("INFINITE_ID_TIMED_SECONDS", str(arguments["seconds_per_batch"]))
    monkeypatch.setitem(METHODS, "timed", replace(METHODS["timed"], config=TimedConfig()))
    config = crowd_config(arguments, tmp_path)
    update = {"output": str(tmp_path / "undisturbed")}
    undisturbed(config.model_copy(update=update), scores=True)
    with cluster() as nodes:
        rng = random.Random(arguments["seed"])
        found = trial(nodes, config, tmp_path, "disturbed", ["actor", "node"], rng, share=0.6)
    assert found["kills_under_way"] == 2
    assert found["driver_starts"] == 1
    wrong = ("rows_lost", "rows_doubled", "rows_refused", "files_torn", "hangs")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert found["runs_unlike_the_undisturbed_one"] == 0
    # As the scenario requires it: an actor holds one batch and has the next one waiting.
    assert found["generation_batches_lost"] <= 2 * found["generation_actors_killed"]
