"""How busy the pipeline keeps its generation actors when a batch costs a stated time.

Every stage is present; the generator sleeps, as a GPU's owner would wait for it, and the scorer
sleeps a millisecond a picture, so that two cores carry the rest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["run"]


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One run of the main job.

    Args:
        arguments: see `benchmarks.crowd.crowd_config`.

    Returns:
        busy_share: batches committed in the middle 80 % of the pictures' time, times the seconds
        of one, over actors times that time; pictures a second; seconds from the plan to the first
        committed batch, less that batch and less what loading the actor takes in this process;
        bytes that go from one stage to the next beside the encoded picture, a picture.
    """
    from benchmarks.crowd import crowd_config
    from pipelines.run.environment import quiet

    quiet()
    from pipelines.benchmark import run_benchmark
    from pipelines.tables.storage import Store

    with tempfile.TemporaryDirectory() as folder:
        config = crowd_config(arguments, Path(folder))
        summary = run_benchmark(config)
        images = sorted(Path(config.output, "images").glob("*.parquet"))
        ends = sorted(path.stat().st_mtime for path in images)
        planned = Path(config.output, "requests", "part-000000000.parquet").stat().st_mtime
        table = Store(config.output).read_table(f"images/{images[0].name}")
        load = _load_seconds(config)
    encoded = sum(len(data) for data in table["image"].to_pylist())
    first, last = (ends[0] + (ends[-1] - ends[0]) * part for part in (0.1, 0.9))
    inside = sum(first < end <= last for end in ends)
    actors = arguments["generation_actors"]
    return {
        "pictures": summary.pictures,
        "pictures_per_second": arguments["batch_size"] * inside / (last - first),
        "busy_share": inside * arguments["seconds_per_batch"] / (actors * (last - first)),
        "load_seconds": load,
        "start_seconds_over_load": ends[0] - planned - arguments["seconds_per_batch"] - load,
        "bytes_beside_the_picture": (table.nbytes - encoded) / table.num_rows,
    }


def _load_seconds(config: Any) -> float:
    begin = time.perf_counter()
    from pipelines.plan.inputs import load_manifests, request_plan
    from pipelines.plan.weights import run_weights
    from pipelines.stages.generation import GenerationActor
    from pipelines.tables.storage import Store

    family, store = config.family(), Store(config.output)
    GenerationActor(
        store,
        request_plan(
            config, family, load_manifests(config), store, run_weights(family, config.methods)
        ),
        family,
    )
    return time.perf_counter() - begin
