"""A cluster of three raylets on this machine, a run of the main job on it, and kills of both."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["DRIVER", "KINDS", "Nodes", "Run", "cluster"]

KINDS = ("actor", "node", "driver")
DRIVER = """
import sys
from pipelines.run.environment import quiet
quiet()
from pipelines.benchmark import run_benchmark
from pipelines.settings import load_config
run_benchmark(load_config(sys.argv[1]))
"""
_MOST_STARTS = 4
_RUN_SECONDS = 150.0
_NODE_SECONDS = 120.0


class Run:
    """A run of the main job in a process of its own, as a supervisor would keep it.

    Attributes:
        output: the run folder.
        starts: of the driver.
        hangs: starts that were killed because they did not end.

    Args:
        config: `pipelines.settings.BenchmarkConfig`.
        folder: for its configuration and what it says.
    """

    def __init__(self, config: Any, folder: Path) -> None:
        import yaml

        self.output = Path(config.output)
        self._file = folder / f"{self.output.name}.yaml"
        self._file.write_text(
            yaml.safe_dump(config.model_dump(exclude={"storage_options"}) | {"resume": True})
        )
        self._log = folder / f"{self.output.name}.log"
        self.starts, self.hangs = 0, 0

    def __enter__(self) -> Run:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the driver, or starts it again.

        Raises:
            RuntimeError: it did not succeed in so many starts.
        """
        if self.starts == _MOST_STARTS:
            raise RuntimeError(f"{self.output.name} failed {self.starts} times: {self.words()}")
        self.starts += 1
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(self._file)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the driver is under way."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Kills the driver."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """Waits for its end and starts it again until it succeeds.

        Raises:
            RuntimeError: it did not succeed in so many starts.
        """
        while self._wait() != 0:
            self.start()

    def _wait(self) -> int:
        try:
            return self.process.wait(_RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self.hangs += 1
            self.kill()
            return self.process.returncode

    def wait_for(self, name: str) -> None:
        """Waits for a file of the run folder.

        Raises:
            RuntimeError: the driver ended, or too long passed, before it was there.
        """
        deadline = time.monotonic() + _RUN_SECONDS
        while not (self.output / name).exists():
            if not self.alive or time.monotonic() > deadline:
                raise RuntimeError(f"{self.output.name} did not begin: {self.words()}")
            time.sleep(0.05)

    def words(self) -> str:
        """The end of what it said."""
        return self._log.read_text(errors="replace")[-2000:]


class Nodes:
    """A head that runs no actor but holds the driver, and two nodes that run actors.

    Attributes:
        address: of the cluster.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address = cluster.address
        self._workers = [self._add() for _ in range(2)]
        cluster.wait_for_nodes(timeout=_NODE_SECONDS)

    def _add(self) -> Any:
        # Waiting here gives up after 30 seconds, which a busy machine takes.
        return self._cluster.add_node(wait=False, num_cpus=3)

    def kill(self, kind: str, run: Run, rng: random.Random) -> int:
        """Kills one thing; a lost node is replaced.

        Returns:
            how many generation actors went with it.
        """
        if kind == "driver":
            killed = len(self._actors("images"))
            run.kill()
            return killed
        if kind == "node":
            lost = rng.choice(self._workers)
            killed = len(_actors([_raylet(lost)], "images"))
            os.kill(_raylet(lost), signal.SIGKILL)
            self._cluster.remove_node(lost, allow_graceful=False)
            self._workers.remove(lost)
            self._workers.append(self._add())
            return killed
        while run.alive:
            actors = self._actors()
            if actors:
                chosen = rng.choice(actors)
                killed = chosen in self._actors("images")
                os.kill(chosen, signal.SIGKILL)
                return int(killed)
            time.sleep(0.05)
        return 0

    def _actors(self, stage: str = "") -> list[int]:
        return _actors([_raylet(node) for node in self._workers], stage)


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
def cluster() -> Iterator[Nodes]:
    """Three raylets of this machine, ended with the context."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    try:
        yield Nodes(made)
    finally:
        made.shutdown()
