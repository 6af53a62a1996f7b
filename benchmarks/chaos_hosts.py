"""Links cut under a run: a head and two workers as hosts of their own, and an S3 server on another.

Each trial is one run of the main job with the timed generator. The driver runs on the head, its
output is s3://; no host sees another's /tmp. Cables are taken out as the run's pictures come. A
driver that ends is started again with `resume`, and a worker's Ray that ends as well, as a
supervisor would. Then the run's tables are compared with those of a run without Ray.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.chaos import compare
from benchmarks.chaos_cluster import DRIVER
from benchmarks.hosts import Host, hosts, not_permitted

__all__ = ["CUTS", "run", "trials"]

CUTS: dict[str, tuple[tuple[str, float | None], ...]] = {
    "worker_for_a_while": (("worker-1", 30.0),),
    "worker_for_good": (("worker-2", None),),
    "store_for_a_while": (("s3", 20.0),),
    "store_for_a_moment_and_worker_for_good": (("s3", 5.0), ("worker-2", None)),
}
"""Whose links are cut, one after the other, and for how many seconds; None: for good."""

_NAMES = ("head", "worker-1", "worker-2", "s3")
_RAY_PORT, _S3_PORT = 6379, 5000
_BUCKET = "chaos"
_LOOK_SECONDS = 0.5
_START_SECONDS = 120.0
_RUN_SECONDS = 400.0
_MOST_STARTS = 4
_RAY = str(Path(sys.executable).parent / "ray")
_NO_SECRETS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_SUMS = (
    "cuts_under_way",
    "rows_lost",
    "rows_doubled",
    "rows_refused",
    "files_torn",
    "runs_unlike_the_undisturbed_one",
    "driver_starts",
    "worker_starts",
    "runs_failed",
    "generation_batches_lost",
)


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The trials, one for each cut.

    Args:
        arguments: cuts: of `CUTS`; and see `benchmarks.crowd.crowd_config`.

    Returns:
        trials; over all of them cuts that met a run under way, rows lost, doubled and refused,
        files torn, runs unlike the one without Ray, starts of the driver and of workers, runs that
        did not succeed, generation batches that had to be generated again; seconds of each.

    Raises:
        ValueError: an unknown cut, or this machine does not permit namespaces.
    """
    for name in arguments["cuts"]:
        if name not in CUTS:
            raise ValueError(f"cuts has {name!r}, allowed: {', '.join(CUTS)}")
    reason = not_permitted()
    if reason is not None:
        raise ValueError(reason)
    found = list(trials(arguments))
    return {
        "trials": len(found),
        **{name: sum(one.get(name, 0) for one in found) for name in _SUMS},
        **{f"seconds_{one['name']}": one["seconds"] for one in found},
    }


def trials(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each cut's run, and what became of it; see `run`."""
    from benchmarks.crowd import crowd_config
    from pipelines.run.environment import quiet

    quiet()
    # Not /tmp: no host sees this machine's.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="chaos-hosts-") as temporary:
        folder = Path(temporary)
        config = crowd_config(arguments, folder)
        # After it: what this imports reads the timed generator's seconds from the environment.
        from benchmarks.without_ray import undisturbed

        undisturbed(config.model_copy(update={"output": str(folder / "undisturbed")}), scores=True)
        with _cluster(folder) as cluster:
            for name in arguments["cuts"]:
                trial = _trial(cluster, config, name)
                print(f"{name}: {json.dumps(trial)}", flush=True)
                yield trial


class _Cluster:
    """Ray on a head and two workers, and what supervises it."""

    def __init__(self, machines: list[Host], folder: Path) -> None:
        self.hosts = dict(zip(_NAMES, machines, strict=True))
        self.folder = folder
        self.environment = {
            **_NO_SECRETS,
            "AWS_ENDPOINT_URL": f"http://{self.hosts['s3'].address}:{_S3_PORT}",
            "RAY_AUTH_MODE": "disabled",
            # 3 times in 5 s, in place of 5 times in 15: what is gone is told within half a minute.
            "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "3",
        }
        self.store = self._start_store()
        self._start(
            "head", ["--head", f"--port={_RAY_PORT}", "--num-cpus=0", "--include-dashboard=false"]
        )
        self._answers()
        self.worker_starts = 0
        self._workers: dict[str, Any] = {}

    @property
    def address(self) -> str:
        return f"{self.hosts['head'].address}:{_RAY_PORT}"

    def _start(self, name: str, words: list[str]) -> Any:
        host = self.hosts[name]
        own = [f"--node-ip-address={host.address}", "--object-store-memory=100000000", "--block"]
        ray = [_RAY, "start", *own, *words]
        return host.start(ray, self.folder / f"{name}.log", self.environment)

    def _answers(self) -> None:
        """Waits until the head does; a driver would not."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection((self.hosts["head"].address, _RAY_PORT), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_SECONDS)

    def _start_store(self) -> Any:
        import s3fs

        host = self.hosts["s3"]
        server = str(Path(sys.executable).parent / "moto_server")
        words = [server, "-H", host.address, "-p", str(_S3_PORT)]
        host.start(words, self.folder / "s3.log")
        store = s3fs.S3FileSystem(
            key="test",
            secret="test",  # noqa: S106 -- of a server of this benchmark
            client_kwargs={"endpoint_url": self.environment["AWS_ENDPOINT_URL"]},
            config_kwargs={"connect_timeout": 2, "read_timeout": 10},
            use_listings_cache=False,
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                store.mkdir(_BUCKET)
                return store
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_SECONDS)

    def supervise(self, gone: Container[str]) -> None:
        """Starts the Ray of workers again that ended, but of those whose link is out."""
        for name in ("worker-1", "worker-2"):
            process = self._workers.get(name)
            if name not in gone and (process is None or process.poll() is not None):
                self.hosts[name].stop()
                words = [f"--address={self.address}", "--num-cpus=3"]
                self._workers[name] = self._start(name, words)
                self.worker_starts += 1


@contextlib.contextmanager
def _cluster(folder: Path) -> Iterator[_Cluster]:
    with hosts(_NAMES) as machines:
        yield _Cluster(machines, folder)


def _trial(cluster: _Cluster, config: Any, name: str) -> dict[str, Any]:
    found: Counter[str] = Counter()
    output, log = f"{_BUCKET}/{name}", cluster.folder / f"{name}.log"
    whole = cluster.folder / "undisturbed"
    files = len(list((whole / "images").glob("part-*.parquet")))
    cuts = list(CUTS[name])
    # Of the run's files, those after which each cable is taken out.
    after = [files * (number + 1) // (len(cuts) + 1) for number in range(len(cuts))]
    gone: dict[str, float | None] = {}
    cluster.supervise(gone)
    starts = cluster.worker_starts
    driver = _driver(cluster, config, output, log)
    found["driver_starts"] += 1
    begin = time.monotonic()
    while time.monotonic() - begin < _RUN_SECONDS:
        passed = time.monotonic() - begin
        for host in [host for host, end in gone.items() if end is not None and passed >= end]:
            cluster.hosts[host].mend()
            del gone[host]
        cluster.supervise(gone)
        # While its link is out the store cannot be asked.
        if cuts and "s3" not in gone and _committed(cluster.store, f"{output}/images") >= after[0]:
            host, seconds = cuts.pop(0)
            after.pop(0)
            found["cuts_under_way"] += driver.poll() is None
            cluster.hosts[host].cut()
            gone[host] = None if seconds is None else passed + seconds
        if driver.poll() is not None and "s3" not in gone:
            if driver.returncode == 0 or found["driver_starts"] == _MOST_STARTS:
                break
            driver = _driver(cluster, config, output, log)
            found["driver_starts"] += 1
        time.sleep(_LOOK_SECONDS)
    found["runs_failed"] += driver.poll() != 0
    # One that hangs would share the workers with the next trial's.
    driver.kill()
    driver.wait()
    taken = time.monotonic() - begin
    for host in gone:
        cluster.hosts[host].mend()
    found["worker_starts"] += cluster.worker_starts - starts
    made = cluster.folder / name
    cluster.store.get(f"{output}/", f"{made}/", recursive=True)
    found.update(compare(whole, made))
    shutil.rmtree(made)
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return {
        "name": name,
        **{key: found[key] for key in _SUMS},
        "seconds": round(taken, 1),
        "said": said[-12:],
    }


def _driver(cluster: _Cluster, config: Any, output: str, log: Path) -> Any:
    """Starts the main job on the head, or goes on with it."""
    import yaml

    update = {
        "address": cluster.address,
        "output": f"s3://{output}",
        "resume": True,
        # Workers may join after the driver has: it waits for them.
        "resources": config.resources.model_copy(update={"cluster_cpus": 6.0}),
    }
    given = config.model_copy(update=update)
    file = log.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(given.model_dump(exclude={"storage_options"})))
    words = [sys.executable, "-c", DRIVER, str(file)]
    return cluster.hosts["head"].start(words, log, cluster.environment)


def _committed(store: Any, folder: str) -> int:
    """Number of committed files of a table."""
    try:
        return sum(name.endswith(".parquet") for name in store.ls(folder, detail=False))
    except FileNotFoundError:
        return 0
    except OSError:
        return 0  # its link is out
