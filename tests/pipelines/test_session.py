"""The local Ray session where the machine is slow."""

from __future__ import annotations

import signal

import pytest

from pipelines.run.environment import quiet
from pipelines.run.failures import RunFailedError
from pipelines.run.session import ray_session

pytestmark = pytest.mark.ray

_SLOW = "The current node timed out during startup. This could happen because of load."


@pytest.mark.parametrize(
    ("failures", "starts"),
    [([_SLOW], 2), ([_SLOW, _SLOW], 2), (["no space left on device"], 1)],
)
def test_a_node_that_is_late_once_is_started_again(monkeypatch, failures: list[str], starts: int):
    ray = pytest.importorskip("ray")
    quiet()
    real, calls, sigterm = ray.init, [], signal.getsignal(signal.SIGTERM)

    def init(**settings: object) -> object:
        calls.append(settings)
        if len(calls) <= len(failures):
            raise Exception(failures[len(calls) - 1])  # as Ray does
        return real(**settings)

    monkeypatch.setattr(ray, "init", init)
    if len(failures) < starts:
        with ray_session("local", num_cpus=1, object_store_bytes=80_000_000) as resources:
            assert resources["CPU"] == 1
            # Ray's own would end the program on the spot.
            assert signal.getsignal(signal.SIGTERM) is sigterm
    else:
        with (
            pytest.raises(RunFailedError, match=failures[-1][:20]),
            ray_session("local", num_cpus=1, object_store_bytes=80_000_000),
        ):
            pass
    assert len(calls) == starts
    assert all(settings["num_cpus"] == 1 for settings in calls)
