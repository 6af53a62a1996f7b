"""Kills at random times: an actor, a node's raylet or the driver of a run, on a real cluster.

Three nodes are three raylets of this machine. Each trial is one run of the main job with the timed
generator. A seeded random number says what is killed with SIGKILL and when; a lost node is
replaced, a lost driver is started again with `resume`, as a supervisor would. Then the run's
tables are compared with those of an undisturbed run, row for row and pixel for pixel.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "run"]

KINDS = ("actor", "node", "driver")
_TABLES = ("faces", "embeddings", "requests", "images", "scores")
_DRIVER = """
import sys
from pipelines.session import quiet
quiet()
from pipelines.benchmark import run_benchmark
from pipelines.settings import load_config
run_benchmark(load_config(sys.argv[1]))
"""
_MOST_STARTS = 4
_RUN_SECONDS = 240.0


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """An undisturbed run, then the trials; kinds of kills take turns.

    Args:
        arguments: trials, seed (of kills), and see `benchmarks.crowd.crowd_config`.

    Returns:
        rows lost, doubled and refused, files torn, runs unlike the undisturbed one, over all
        trials; kills by kind; starts of the driver; units of pictures begun again, in all and at
        most for one killed generation actor; seconds of an undisturbed and of a disturbed run.
    """
    from benchmarks.crowd import crowd_config
    from pipelines.session import quiet

    quiet()
    figures: Counter[str] = Counter()
    worst = 0.0
    disturbed = []
    with tempfile.TemporaryDirectory() as temporary, _cluster() as cluster:
        folder = Path(temporary)
        config = crowd_config(arguments, folder).model_copy(update={"address": cluster.address})

        def start(name: str) -> _Run:
            return _Run(config.model_copy(update={"output": str(folder / name)}), folder)

        with start("undisturbed") as whole:
            whole.wait_for("run.json")
            begin = time.monotonic()
            if whole.wait() != 0:
                raise RuntimeError(f"the undisturbed run failed: {whole.words()}")
            seconds = time.monotonic() - begin
        for number in range(arguments["trials"]):
            rng = random.Random(arguments["seed"] + number)
            kind = KINDS[number % len(KINDS)]
            with start(f"trial-{number}") as trial:
                trial.wait_for("run.json")
                begin = time.monotonic()
                time.sleep(rng.uniform(0.0, seconds))
                killed = cluster.kill(kind, trial, rng)
                while trial.wait() != 0:
                    trial.start_again()
                disturbed.append(time.monotonic() - begin)
            found = _compare(whole.output, trial.output)
            again = found.pop("units_begun_again")
            worst = max(worst, again / max(killed, 1))
            figures.update(found)
            figures.update(
                {
                    f"kills_of_{kind}": 1,
                    "driver_starts": trial.starts,
                    "generation_actors_killed": killed,
                    "units_begun_again": again,
                }
            )
            print(
                f"trial {number}: {kind}, {killed} generation actors, {again} units again, "
                f"{trial.starts} starts, {disturbed[-1]:.0f} s, {dict(found)}",
                flush=True,
            )
    return {
        "trials": arguments["trials"],
        **dict(figures),
        "most_units_begun_again_a_killed_actor": worst,
        "seconds_undisturbed": seconds,
        "seconds_disturbed": sum(disturbed) / len(disturbed),
    }


class _Run:
    """A run of the main job in a process of its own, started again until it succeeds."""

    def __init__(self, config: Any, folder: Path) -> None:
        import yaml

        self.output = Path(config.output)
        self._file = folder / f"{self.output.name}.yaml"
        self._file.write_text(yaml.safe_dump(config.model_dump() | {"resume": True}))
        self._log = folder / f"{self.output.name}.log"
        self.starts = 0

    def __enter__(self) -> _Run:
        self.start_again()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start_again(self) -> None:
        """Starts the driver.

        Raises:
            RuntimeError: it did not succeed in so many starts.
        """
        if self.starts == _MOST_STARTS:
            raise RuntimeError(f"{self.output.name} failed {self.starts} times: {self.words()}")
        self.starts += 1
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _DRIVER, str(self._file)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kills the driver."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self) -> int:
        """Its exit code; a run that hangs is killed and counts as failed."""
        try:
            return self.process.wait(_RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.output.name} hung: {self.words()}") from None

    def wait_for(self, name: str) -> None:
        """Waits for a file of the run folder."""
        deadline = time.monotonic() + _RUN_SECONDS
        while not (self.output / name).exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.output.name} did not begin: {self.words()}")
            time.sleep(0.05)

    def words(self) -> str:
        """The end of what it said."""
        return self._log.read_text(errors="replace")[-2000:]


class _Nodes:
    """A head that runs no actor, and two nodes that do."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address = cluster.address
        self._workers = [cluster.add_node(num_cpus=3) for _ in range(2)]
        cluster.wait_for_nodes()

    def kill(self, kind: str, trial: _Run, rng: random.Random) -> int:
        """Kills one thing; returns how many generation actors went with it."""
        if kind == "driver":
            trial.kill()
            return len(_actors(self._raylets(), "images"))
        if kind == "node":
            lost = rng.choice(self._workers)
            raylet = _raylet(lost)
            killed = len(_actors([raylet], "images"))
            os.kill(raylet, signal.SIGKILL)
            self._cluster.remove_node(lost, allow_graceful=False)
            self._workers.remove(lost)
            self._workers.append(self._cluster.add_node(num_cpus=3))
            return killed
        return self._kill_actor(trial, rng)

    def _kill_actor(self, trial: _Run, rng: random.Random) -> int:
        while trial.process.poll() is None:
            actors = _actors(self._raylets())
            if actors:
                chosen = rng.choice(actors)
                killed = chosen in _actors(self._raylets(), "images")
                os.kill(chosen, signal.SIGKILL)
                return int(killed)
            time.sleep(0.05)
        return 0

    def _raylets(self) -> list[int]:
        return [_raylet(node) for node in self._workers]


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def _actors(raylets: list[int], stage: str = "") -> list[int]:
    """Process ids of the run's actors on nodes, of one stage or of all."""
    import psutil

    found = []
    for raylet in raylets:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(raylet).children():
                with contextlib.suppress(psutil.Error):
                    if f"ray::MapWorker(MapBatches({stage}" in " ".join(child.cmdline()):
                        found.append(child.pid)
    return sorted(found)


@contextlib.contextmanager
def _cluster() -> Iterator[_Nodes]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    try:
        yield _Nodes(cluster)
    finally:
        cluster.shutdown()


def _compare(whole: Path, run: Path) -> Counter[str]:
    """What a disturbed run lost, doubled or tore, against an undisturbed one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: Counter[str] = Counter()
    equal = True
    for name in _TABLES:
        key = {"faces": "image_id", "embeddings": "identity_id"}.get(name, "sample_id")
        tables = []
        for folder in (whole, run):
            parts = []
            for path in sorted((folder / name).glob("part-*.parquet")):
                try:
                    parts.append(pq.read_table(path))
                except (OSError, pa.ArrowInvalid):
                    found["files_torn"] += 1
            tables.append(pa.concat_tables(parts) if parts else pa.table({key: []}))
        keys = [Counter(table[key].to_pylist()) for table in tables]
        found["rows_lost"] += (keys[0] - keys[1]).total()
        found["rows_doubled"] += sum(number - 1 for number in keys[1].values())
        equal = equal and _timeless(tables[0], key) == _timeless(tables[1], key)
    found["runs_unlike_the_undisturbed_one"] += not equal
    found["rows_refused"] += sum(pq.read_table(p).num_rows for p in run.glob("rejects/*.parquet"))
    lost = json.loads((run / "run.json").read_text()).get("lost_tries", {})
    found["units_begun_again"] += lost.get("images", 0)
    return found


def _timeless(table: Any, key: str) -> bytes:
    """A table's bytes without its measured seconds; as bytes, NaN equals NaN."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [name for name in table.column_names if name != "seconds"]
    sink = pa.BufferOutputStream()
    pq.write_table(table.select(names).sort_by(key).combine_chunks(), sink)
    return sink.getvalue().to_pybytes()
