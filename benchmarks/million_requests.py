"""What a picture costs the driver and Ray Data, and whether memory grows with the requests.

The timed generator takes no time; the same requests go through the same actors' code in a plain
loop, so that the difference in CPU time is the pipeline's own. In the middle the driver and all
that it started are killed with SIGKILL, and the run is resumed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["run"]

_LOOP_UNITS = 50
_EARLY_PICTURES = 10_000
_DRIVER = """
import sys
from pipelines.run.environment import quiet
quiet()
import psutil
from pipelines.benchmark import run_benchmark
from pipelines.settings import load_config
driver = psutil.Process()
def progress(stage, done, total):
    if stage == "scores":
        print(done, driver.memory_info().rss / 1e6, flush=True)
run_benchmark(load_config(sys.argv[1]), progress=progress)
"""


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One run, killed in the middle and resumed.

    Args:
        arguments: see `benchmarks.crowd.crowd_config`.

    Returns:
        pictures, those when it was killed, rows a second, CPU milliseconds a picture of everything
        and of a plain loop and their difference, growth of the driver's memory after the first
        10,000 pictures in MB.

    Raises:
        RuntimeError: the resumed run failed, or its tables lack or double a picture.
    """
    from benchmarks.crowd import CpuSeconds, crowd_config
    from pipelines.run.environment import quiet

    quiet()
    import yaml

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = crowd_config(arguments, folder)
        settings = folder / "config.yaml"
        settings.write_text(
            yaml.safe_dump(config.model_dump(exclude={"storage_options"}) | {"resume": True})
        )
        wanted = arguments["people"] * arguments["prompts"] * arguments["styles"]
        wanted *= arguments["seeds"]
        begin = time.perf_counter()
        with CpuSeconds() as cpu:
            first = _drive(settings, stop=wanted // 2)
            second = _drive(settings, stop=None)
            total = cpu.total
        seconds = time.perf_counter() - begin
        pictures = _check(Path(config.output), wanted)
        loop = _loop(config, folder / "loop")
    memory = [*first, *second]
    early = next((rss for done, rss in memory if done >= _EARLY_PICTURES), memory[0][1])
    each = total / pictures * 1e3
    return {
        "pictures": pictures,
        "pictures_when_killed": first[-1][0],
        "pictures_per_second": pictures / seconds,
        "cpu_ms_a_picture": each,
        "cpu_ms_a_picture_in_a_loop": loop * 1e3,
        "cpu_ms_a_picture_of_the_pipeline": each - loop * 1e3,
        "driver_memory_growth_mb": max(rss for _, rss in memory) - early,
    }


def _drive(settings: Path, stop: int | None) -> list[tuple[int, float]]:
    """Runs a driver, until it ends or has so many pictures and is killed.

    Returns:
        (pictures, MB of the driver) after each unit.
    """
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(settings)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    seen: list[tuple[int, float]] = []
    assert driver.stdout is not None  # noqa: S101 -- narrows the type
    with driver.stdout as lines:
        for line in lines:
            done, rss = line.split()
            seen.append((int(done), float(rss)))
            if stop is not None and seen[-1][0] >= stop:
                os.killpg(driver.pid, signal.SIGKILL)
                break
    if driver.wait() != 0 and stop is None:
        raise RuntimeError(f"the resumed run ended with {driver.returncode}")
    return seen


def _check(run: Path, wanted: int) -> int:
    """Pictures of a finished run, each once in all of its tables."""
    import pyarrow.dataset as ds

    tables = [set(ds.dataset(run / "requests").to_table(["sample_id"])["sample_id"].to_pylist())]
    for name in ("images", "scores"):
        rows = ds.dataset(run / name).to_table(["sample_id"])["sample_id"].to_pylist()
        tables.append(set(rows))
        if len(rows) != wanted or tables[-1] != tables[0]:
            raise RuntimeError(
                f"{name} has {len(rows)} rows of {len(tables[-1])} ids, not {wanted}"
            )
    return json.loads((run / "run.json").read_text())["counts"]["pictures"]


def _loop(config: Any, output: Path) -> float:
    """CPU seconds a picture of the actors' own work, in one process."""
    import shutil

    from pipelines.plan.inputs import load_manifests, request_plan
    from pipelines.plan.weights import run_weights
    from pipelines.run.units import unit_table
    from pipelines.stages.generation import GenerationActor
    from pipelines.stages.scoring import ScoringActor
    from pipelines.tables.storage import Store

    family = config.family()
    plan = request_plan(
        config,
        family,
        load_manifests(config),
        Store(config.output),
        run_weights(family, config.methods),
    )
    shutil.copytree(Path(config.output, "embeddings"), output / "embeddings")
    store = Store(output)
    generate = GenerationActor(store, plan, family)
    score = ScoringActor(store, plan, config.metrics, family.name)
    score.load()
    units = range(min(_LOOP_UNITS, plan.units))
    begin = time.process_time()
    for unit in units:
        score(generate(unit_table([unit])))
    return (time.process_time() - begin) / sum(plan.unit_rows(unit) for unit in units)
