"""A run of the main job with a crowd: many people of a few photos, the timed generator, the timed
scorer. What is left to measure is the pipeline itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["CpuSeconds", "crowd_config"]

_SAMPLE_SECONDS = 1.0


def crowd_config(arguments: Mapping[str, Any], folder: Path) -> Any:
    """A `BenchmarkConfig`: the demo faces under as many identity ids as asked for.

    Args:
        arguments: people, prompts, styles (counts), seeds, batch_size, generation_actors,
            seconds_per_batch.
        folder: for the manifests and the run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.settings import load_config
    from pipelines.tables.demo_people import demo_identities
    from pipelines.tables.manifest import default_styles
    from pipelines.tables.schemas import IDENTITIES, PROMPTS

    # Workers of a local cluster inherit it; the timed generator reads it.
    os.environ["INFINITE_ID_TIMED_SECONDS"] = str(arguments["seconds_per_batch"])
    faces = demo_identities().to_pylist()
    people = [
        {**faces[number % len(faces)], "identity_id": f"person_{number:06d}"}
        for number in range(arguments["people"])
    ]
    prompts = [
        {"prompt_id": f"prompt_{number:03d}", "text": f"a {{subject}}, scene {number}"}
        for number in range(arguments["prompts"])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(people, schema=IDENTITIES), folder / "people.parquet")
    pq.write_table(pa.Table.from_pylist(prompts, schema=PROMPTS), folder / "prompts.parquet")
    return load_config(
        identities=str(folder / "people.parquet"),
        prompts=str(folder / "prompts.parquet"),
        style_names=default_styles()["style"].to_pylist()[: arguments["styles"]],
        seeds=f"0:{arguments['seeds']}",
        methods=["timed"],
        metrics=["timed"],
        batch_size=arguments["batch_size"],
        output=str(folder / "run"),
        resources={
            "generation_actors": arguments["generation_actors"],
            "generation_cpus": 0.5,
            "threads": 1,
        },
        address="local",
    )


class CpuSeconds:
    """CPU seconds of this process and of all that it starts, sampled: processes come and go.

    Used as a context manager; `total` is the sum, in seconds, of what was seen since it began.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = 0.0

    def __enter__(self) -> CpuSeconds:
        self._sample()
        self._before = sum(self._seen.values())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sample()
        self._stop.set()
        self._thread.join()

    @property
    def total(self) -> float:
        """Seconds until now."""
        self._sample()
        return sum(self._seen.values()) - self._before

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        import contextlib

        import psutil

        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
