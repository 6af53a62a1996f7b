"""Waits until a cluster that grows has what stages need."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

from pipelines.run.failures import RunFailedError
from pipelines.stages.stage import Stage, demand

__all__ = ["await_resources"]

_SAY_SECONDS = 30.0
_LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


def await_resources(
    stages: Sequence[Stage],
    seconds: float,
    limits: Mapping[str, float],
    *,
    say: Callable[[str], None] = logger.warning,
) -> None:
    """Returns once the cluster has the CPUs and GPUs of these stages; asks it to grow first.

    Args:
        stages: that are about to run together.
        seconds: to wait at most.
        limits: what the cluster can grow to, see `pipelines.run.session.cluster_limits`.
        say: told what is waited for, at once and every half a minute.

    Raises:
        RunFailedError: the time is over.
    """
    import ray

    needed = {"CPU": demand(stages, "CPU"), "GPU": demand(stages, "GPU")}
    begin, said = time.monotonic(), -_SAY_SECONDS
    while short := _short(needed, have := ray.cluster_resources()):
        missing = ", ".join(f"{have.get(n, 0.0):g} of {needed[n]:g} {n}s" for n in short)
        if said < 0:
            _ask(_bundles(stages))
        waited = time.monotonic() - begin
        if waited >= seconds:
            raise RunFailedError(
                f"the cluster did not grow in {seconds:.0f} s: {missing} for "
                f"{', '.join(stage.name for stage in stages)}; resources.wait_seconds is how long "
                "a run waits"
            )
        if waited - said >= _SAY_SECONDS:
            said = waited
            unknown = [f"resources.cluster_{n.lower()}s" for n in short if math.isinf(limits[n])]
            hint = f"; whether it can is not known, {' and '.join(unknown)} would say it"
            say(
                f"waiting for the cluster to grow: {missing}; {waited:.0f} of {seconds:.0f} s, "
                "which resources.wait_seconds sets" + hint * bool(unknown)
            )
        time.sleep(_LOOK_SECONDS)
    if said >= 0:
        # The actors themselves hold the machines from now on; a wish that stays would never let
        # them go.
        _ask([])


def _short(needed: Mapping[str, float], have: Mapping[str, float]) -> list[str]:
    return [name for name, number in needed.items() if number > have.get(name, 0.0) + 1e-6]


def _bundles(stages: Sequence[Stage]) -> list[dict[str, float]]:
    """Each actor is one, so that machines that hold one each are counted right."""
    bundles = [
        {name: amount for name, amount in (("CPU", s.num_cpus), ("GPU", s.num_gpus)) if amount}
        for s in stages
        for _ in range(s.least)
    ]
    return [bundle for bundle in bundles if bundle]


def _ask(bundles: list[dict[str, float]]) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)
