"""What the pipeline costs on top of a plain loop that does the same work in one process.

The loop generates, encodes and scores the same requests batch by batch with the same actors'
code. The pipeline's time runs from its first finished unit to its last, so that neither side
counts the loading of weights. The loop's torch has `threads` threads; the pipeline has what a run
gets by default.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["run"]


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Runs both sides `repeats` times, in turn.

    Args:
        arguments: pictures, batch_size, steps, method, threads (of the loop), repeats.

    Returns:
        seconds a picture of each side (medians) and `overhead`, pipeline / loop - 1.
    """
    from pipelines.run.environment import quiet

    quiet()
    import statistics

    loops, pipes = [], []
    for _ in range(arguments["repeats"]):
        with tempfile.TemporaryDirectory() as folder:
            piped, count = _pipeline(arguments, Path(folder) / "run")
            pipes.append(piped)
            loops.append(_loop(arguments, Path(folder) / "run", Path(folder) / "loop"))
    loop, pipeline = statistics.median(loops), statistics.median(pipes)
    return {
        "pictures": count,
        "loop_seconds_per_picture": loop,
        "pipeline_seconds_per_picture": pipeline,
        "overhead": pipeline / loop - 1,
    }


def _config(arguments: Mapping[str, Any], output: Path) -> Any:
    from pipelines.settings import load_config

    return load_config(
        output=str(output),
        methods=[arguments["method"]],
        batch_size=arguments["batch_size"],
        num_inference_steps=arguments["steps"],
        limit=arguments["pictures"],
        address="local",
    )


def _pipeline(arguments: Mapping[str, Any], output: Path) -> tuple[float, int]:
    from pipelines.benchmark import run_benchmark

    marks: list[float] = []

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "scores":
            marks.append(time.perf_counter())

    summary = run_benchmark(_config(arguments, output), progress=progress)
    per_unit = (marks[-1] - marks[0]) / (len(marks) - 1)
    return per_unit * len(marks) / summary.pictures, summary.pictures


def _loop(arguments: Mapping[str, Any], run: Path, output: Path) -> float:
    import shutil

    import torch

    from pipelines.plan.inputs import load_manifests, request_plan
    from pipelines.plan.weights import run_weights
    from pipelines.run.units import unit_table
    from pipelines.stages.generation import GenerationActor
    from pipelines.stages.scoring import ScoringActor
    from pipelines.tables.storage import Store

    config = _config(arguments, run)
    family = config.family()
    plan = request_plan(
        config, family, load_manifests(config), Store(run), run_weights(family, config.methods)
    )
    shutil.copytree(run / "embeddings", output / "embeddings")
    store = Store(output)
    generate = GenerationActor(store, plan, family, threads=arguments["threads"])
    score = ScoringActor(store, plan, None, family.name)
    score.load()
    # As in a scoring actor; two threads that compute with pools of their own slow each other.
    torch.set_num_threads(1)
    marks = []
    for unit in range(plan.units):
        score(generate(unit_table([unit])))
        marks.append(time.perf_counter())
    return (marks[-1] - marks[0]) / (len(marks) - 1) * len(marks) / len(plan)
