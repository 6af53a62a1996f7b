"""What a cluster can grow to: as told, unknown by address, what is there on this machine."""

from __future__ import annotations

import json
import math

import pytest

from pipelines.run.autoscaler import has_no_autoscaler, is_fixed
from pipelines.run.session import cluster_limits
from pipelines.settings import Resources, load_config
from pipelines.stages.phases import generation_pool, generation_stage
from pipelines.stages.stage import Stage, check_stages
from pipelines.tables.storage import Store

NOW = {"CPU": 8.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("told", "address", "most"),
    [
        ({}, "local", {"CPU": 8.0, "GPU": 0.0}),
        ({}, None, {"CPU": 8.0, "GPU": 0.0}),
        ({}, "10.0.0.1:6379", {"CPU": math.inf, "GPU": math.inf}),
        ({"cluster_gpus": 8}, "10.0.0.1:6379", {"CPU": math.inf, "GPU": 8.0}),
        ({"cluster_cpus": 2, "cluster_gpus": 0}, "auto", {"CPU": 8.0, "GPU": 0.0}),
        ({"wait_seconds": 0}, "auto", {"CPU": 8.0, "GPU": 0.0}),
        ({"wait_seconds": 0, "cluster_gpus": 4}, "auto", {"CPU": 8.0, "GPU": 4.0}),
    ],
)
def test_limits(told, address, most, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_limits(NOW, Resources(**told), address) == most


def test_a_submitted_job_has_the_address_of_its_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_limits(NOW, Resources(), None)["GPU"] == math.inf


def test_what_is_unknown_is_not_refused_and_what_is_told_is():
    stage = Stage("images", object, gives=("unit",), num_cpus=1.0, num_gpus=2.0)
    check_stages([stage], [], {"CPU": math.inf, "GPU": math.inf})
    with pytest.raises(ValueError, match=r"ask for 2 GPUs .* resources.cluster_gpus where it can"):
        check_stages([stage], [], {"CPU": math.inf, "GPU": 1.0})


def test_an_unknown_cluster_is_not_asked_for_more_actors_than_it_holds(tmp_path):
    config = load_config(None, preset="sdxl_plus_face_open", methods=["text_only"])
    family, store = config.family(), Store(str(tmp_path))
    plan = _Plan(80)
    for limits, wanted in (
        ({"CPU": math.inf, "GPU": math.inf}, 1),
        ({"CPU": 128.0, "GPU": 8.0}, (1, 8)),
    ):
        stage = generation_stage(config, family, plan, store, NOW, limits=limits)
        assert stage.concurrency == wanted
    assert generation_pool(config, family, 80, {"CPU": 64.0, "GPU": 2.0})[0] == 2


class _Plan:
    """So many requests."""

    def __init__(self, requests: int) -> None:
        self._requests = requests

    def __len__(self) -> int:
        return self._requests


ADA, BOB = "a" * 56, "b" * 56


@pytest.mark.parametrize(
    ("types", "fixed"),
    [
        ({f"node_{ADA}": 1, f"node_{BOB}": 1}, True),
        ({f"node_{ADA}": 1}, True),
        ({"ray.head.default": 1, "gpu": 1}, False),
        ({}, False),
        ({f"node_{'c' * 56}": 1}, False),
    ],
)
def test_a_monitor_without_types_of_machines_has_no_autoscaler(types, fixed):
    report = {"active_nodes": types, "idle_nodes": None, "pending_nodes": []}
    status = json.dumps({"autoscaler_report": report}).encode()
    assert has_no_autoscaler(status, [ADA, BOB]) is fixed


def test_no_status_says_nothing():
    assert not has_no_autoscaler(None, [ADA])
    assert not has_no_autoscaler(json.dumps({"load_metrics_report": {}}).encode(), [ADA])
    assert not is_fixed()
