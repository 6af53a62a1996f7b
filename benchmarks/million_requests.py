"""What a picture costs the driver and Ray Data, and whether memory grows with the requests.

The timed generator takes no time; the same requests go through the same actors' code in a plain
loop, so that the difference in CPU time is the pipeline's own. The run is killed once in the
middle and resumed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["run"]

_LOOP_UNITS = 50
_EARLY_PICTURES = 10_000


class _Interrupt(Exception):
    """Stands for the kill in the middle."""


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One run, interrupted in the middle and resumed.

    Args:
        arguments: see `benchmarks.crowd.crowd_config`.

    Returns:
        pictures, rows a second, CPU milliseconds a picture of everything and of a plain loop and
        their difference, growth of the driver's memory after the first 10,000 pictures in MB.
    """
    from benchmarks.crowd import CpuSeconds, crowd_config
    from pipelines.session import quiet

    quiet()
    import psutil

    from pipelines.benchmark import run_benchmark

    memory: list[tuple[int, float]] = []
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        config = crowd_config(arguments, Path(folder))
        half = [True]

        def progress(phase: str, done: int, total: int) -> None:
            if phase != "pictures":
                return
            memory.append((done, process.memory_info().rss / 1e6))
            if half[0] and done >= total / 2:
                half[0] = False
                raise _Interrupt

        begin = time.perf_counter()
        with CpuSeconds() as cpu:
            try:
                run_benchmark(config, progress=progress)
            except _Interrupt:
                done = memory[-1][0]
            summary = run_benchmark(config.model_copy(update={"resume": True}), progress=progress)
            total = cpu.total
        seconds = time.perf_counter() - begin
        loop = _loop(config, Path(folder) / "loop")
    early = next((rss for done, rss in memory if done >= _EARLY_PICTURES), memory[0][1])
    each = total / summary.pictures * 1e3
    return {
        "pictures": summary.pictures,
        "pictures_when_interrupted": done,
        "pictures_per_second": summary.pictures / seconds,
        "cpu_ms_a_picture": each,
        "cpu_ms_a_picture_in_a_loop": loop * 1e3,
        "cpu_ms_a_picture_of_the_pipeline": each - loop * 1e3,
        "driver_memory_growth_mb": max(rss for _, rss in memory) - early,
    }


def _loop(config: Any, output: Path) -> float:
    """CPU seconds a picture of the actors' own work, in one process."""
    import shutil

    from pipelines.actors import GenerationActor, ScoringActor
    from pipelines.inputs import load_manifests, model_family, request_plan
    from pipelines.storage import Store
    from pipelines.units import unit_table

    family = model_family(config)
    plan = request_plan(config, family, load_manifests(config), Store(config.output))
    shutil.copytree(Path(config.output, "embeddings"), output / "embeddings")
    store = Store(output)
    generate = GenerationActor(store, plan, family)
    score = ScoringActor(store, plan, config.metrics, family.name)
    units = range(min(_LOOP_UNITS, plan.units))
    begin = time.process_time()
    for unit in units:
        score(generate(unit_table([unit])))
    return (time.process_time() - begin) / sum(plan.unit_rows(unit) for unit in units)
