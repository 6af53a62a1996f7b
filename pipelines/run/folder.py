"""A run's folder: its tables, its `run.json`, and whose run it is."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from eval.places import StorageError
from pipelines.run.attempts import clear_attempts
from pipelines.run.failures import RunFailedError, root_cause
from pipelines.tables.storage import Store

__all__ = [
    "RunFolder",
    "Timings",
    "environment",
    "check_same",
]

_TABLES = (
    "faces", "embeddings", "references", "requests", "images", "scores", "verdicts", "rejects",
    "manifests",
)  # fmt: skip
# All that a run writes to; what else lies in its folder is another's, who may be writing it now.
_FOLDERS = ("", *_TABLES, "report", "report/people", *(f"other_people/{name}" for name in _TABLES))
_PACKAGES = ("torch", "diffusers", "transformers", "ray", "pyarrow", "onnxruntime", "insightface")


class RunFolder:
    """The folder of one run.

    Args:
        url: where; created if it is not there.
        options: of file systems by scheme.
        resume: go on with the run that is there; a new one begins where there is none, so that
            a supervisor can repeat one command until it succeeds.

    Raises:
        ValueError: it holds something else, or a run and `resume` is False.
        StorageError: it cannot be written.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, *, resume: bool = False
    ) -> None:
        self.store = Store(url, options)
        self.record: dict[str, Any] = {}
        if self.store.is_file():
            raise ValueError(f"output {self.store.url} is a file, allowed: a folder")
        if self.store.exists("run.json"):
            self.record = self._read()
            if not resume:
                raise ValueError(
                    f"output {self.store.url} already holds the run of "
                    f"{self.record.get('created', 'an earlier day')}, allowed: --resume to go on "
                    "with it, or another --output"
                )
        elif self._foreign():
            raise ValueError(
                f"output {self.store.url} holds files but no run.json, allowed: an empty or new "
                "folder, or one that a run was started in"
            )
        self.store.check_writable()

    def _foreign(self) -> bool:
        names = self.store.holds()
        return any(name != "lease.json" and not name.startswith(".") for name in names)

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(self.store.read_bytes("run.json"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.store.url}/run.json is no run record: {error}") from error
        if not isinstance(record, dict) or "schema_version" not in record:
            raise ValueError(
                f"{self.store.url}/run.json belongs to another program, allowed: another --output"
            )
        return record

    @contextlib.contextmanager
    def recording(
        self, timings: Timings, *, digests: Mapping[str, str], **values: Any
    ) -> Iterator[None]:
        """Records a running job and, should it raise, a failed one.

        Args:
            timings: written with the failure.
            digests: see `claim`.
            values: merged into run.json at the beginning.

        Raises:
            RunFailedError: the place failed under the run.
        """
        for name, value in digests.items():
            self.claim(name, value)
        self.store.sweep(_FOLDERS)
        self._count_lost()
        self.update(status="running", **values)
        try:
            yield
            self._count_lost()
        except BaseException as error:
            with contextlib.suppress(StorageError):
                self._count_lost()
                self.update(status="failed", timings=timings.record)
            cause = root_cause(error)
            if isinstance(cause, StorageError):
                raise RunFailedError(str(cause)) from error
            raise

    def _count_lost(self) -> None:
        """Adds the tries of units that ended with their process to `lost_tries`, by stage."""
        died = clear_attempts(self.store)
        if died:
            lost = Counter(self.record.get("lost_tries", {}))
            self.update(lost_tries=dict(lost + Counter(died)))

    def claim(self, name: str, value: str) -> None:
        """Binds the run to a digest; a resumed run must have the same.

        Raises:
            ValueError: the run was begun with other inputs or settings.
        """
        earlier = self.record.get("digests", {}).get(name)
        if earlier is not None and earlier != value:
            raise ValueError(
                f"output {self.store.url} belongs to a run with other {name}, allowed: the same "
                "inputs and settings as before, or another --output"
            )
        self.update(digests={**self.record.get("digests", {}), name: value})

    def update(self, **values: Any) -> None:
        """Merges `values` into run.json and writes it."""
        self.record = {"schema_version": 1, "created": _now(), **self.record, **values}
        self.record["updated"] = _now()
        text = json.dumps(self.record, indent=2, ensure_ascii=False, default=str)
        self.store.write_bytes("run.json", text.encode())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Versions, machine and code revision: what a figure has to be read with."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpus": os.cpu_count(),
        "packages": versions,
        "code": _code_revision(),
    }


def _code_revision() -> str | None:
    """The commit of this checkout, None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@dataclass(slots=True)
class _Phase:
    rows: int = 0


class Timings:
    """Seconds and rows of each phase, summed over a run and its resumes.

    `record` is {phase: {"seconds": float, "rows": int}}.
    """

    def __init__(self, earlier: Mapping[str, Mapping[str, float]]) -> None:
        self.record: dict[str, dict[str, float]] = {k: dict(v) for k, v in earlier.items()}

    def _sum(self, phase: str, seconds: float, rows: int) -> None:
        entry = self.record.setdefault(phase, {"seconds": 0.0, "rows": 0})
        entry["seconds"] = entry["seconds"] + seconds
        entry["rows"] = entry["rows"] + rows

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[_Phase]:
        """Wall seconds of a block; the block counts `rows` on what is yielded."""
        counted, begin = _Phase(), time.perf_counter()
        try:
            yield counted
        finally:
            self._sum(phase, time.perf_counter() - begin, counted.rows)

    def add(self, phase: str, rows: pa.Table, seconds_column: str) -> None:
        """Adds what actors measured themselves: a column of seconds, one row a unit."""
        self._sum(phase, sum(rows[seconds_column].to_pylist()), sum(rows["pictures"].to_pylist()))


def check_same(store: Store, name: str, what: str, settings: Mapping[str, Any]) -> None:
    """Refuses an output folder whose file of settings says other values; none says nothing.

    Args:
        store: the output folder.
        name: of the JSON file in it.
        what: the folder holds then, for the message: "an export with".
        settings: JSON values by key.

    Raises:
        ValueError: the first key that differs, with both values.
    """
    if not store.exists(name):
        return
    found = json.loads(store.read_bytes(name))
    for key, value in settings.items():
        if found.get(key) != value:
            raise ValueError(
                f"output {store.url} holds {what} {key} {found.get(key)!r}, this run has "
                f"{value!r}; allowed: the same, or another output"
            )
