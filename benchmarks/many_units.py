"""What a long run's plan costs the driver before and while its first units pass.

Ray Data makes a block of each unit. The run is not finished: after some units it is left, and what
counts is the time to the first one and the driver's memory, which may not hold all blocks at once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

__all__ = ["PassOn", "run"]


class PassOn:
    """An actor that gives back what it gets."""

    def __call__(self, units: pa.Table) -> pa.Table:
        return units


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Streams units of nothing, first of few, then of many, each time the same number of them.

    Args:
        arguments: few, many (units of a run), passed (units after which it is left).

    Returns:
        for both, seconds to the first unit and units a second after it; memory_growth_mb: how much
        more the driver's memory rose with many units than with few.
    """
    from pipelines.run.environment import quiet
    from pipelines.run.session import ray_session

    quiet()
    figures: dict[str, float] = {}
    rise = {}
    with ray_session("local"):
        # What the first run imports and starts is not the second one's.
        _stream(100, 100)
        for name in ("few", "many"):
            first, rate, rise[name] = _stream(arguments[name], arguments["passed"])
            figures |= {f"{name}/seconds_to_first": first, f"{name}/units_per_second": rate}
    return figures | {"memory_growth_mb": rise["many"] - rise["few"]}


def _stream(units: int, passed: int) -> tuple[float, float, float]:
    """Seconds to the first unit, units a second after it, and the rise of the driver's MB."""
    import psutil

    from pipelines.stages.ray_data import stream_units
    from pipelines.stages.stage import Stage
    from pipelines.tables.storage import Store

    driver = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        begin, before = time.perf_counter(), driver.memory_info().rss
        stages = [Stage("units", PassOn, num_cpus=0.5)]
        steps = stream_units(stages, Store(Path(folder)), "units", range(units))
        next(steps)
        first = time.perf_counter()
        most = before
        for _, _ in zip(range(passed - 1), steps, strict=False):
            most = max(most, driver.memory_info().rss)
        rate = (passed - 1) / (time.perf_counter() - first)
        steps.close()
    return first - begin, rate, (most - before) / 1e6
