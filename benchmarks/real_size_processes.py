"""A command of this project in a process of its own, whose memory and reads are watched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Watched"]

_READS = Path(__file__).parent / "reads"
_LOOK_SECONDS = 0.2
_ACTOR = re.compile(r"ray::\w+\(MapBatches\((\w+)")


class Watched:
    """`python -m WORDS` from its start to its end, which the context brings at the latest.

    Args:
        words: module and arguments.
        reads: folder for what `benchmarks/reads/sitecustomize.py` writes.
    """

    def __init__(self, words: Sequence[str], reads: Path) -> None:
        self._begin = time.perf_counter()
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115 -- as long as this object
        paths = [str(_READS), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "INFINITE_ID_READS": str(reads),
            "PYTHONUNBUFFERED": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=self._log, stderr=self._log, env=environment
        )
        self._most: dict[str, float] = {}
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._watch.join()
        self._log.close()

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.perf_counter() - self._begin

    def _text(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def said(self, beginning: str, seconds: float) -> str:
        """The first line that begins so.

        Raises:
            RuntimeError: it ended, or so many seconds passed, before it said that.
        """
        while True:
            ended = self._process.poll() is not None
            for line in self._text().splitlines():
                if line.startswith(beginning):
                    return line
            if ended or self.seconds > seconds:
                raise RuntimeError(f"{beginning!r} was not said, but: {self._text()[-2000:]}")
            time.sleep(_LOOK_SECONDS)

    def terminate(self) -> None:
        """As a supervisor ends a service."""
        self._process.terminate()

    def ended(self) -> dict[str, Any]:
        """Waits for its end: exit code, and GB as `run` of `benchmarks.real_size` has them."""
        code = self._process.wait()
        self._watch.join()
        print(self._text(), flush=True)
        return {"exit_code": code, **self._most}

    def _look(self) -> None:
        watched = psutil.Process(self._process.pid)
        while self._process.poll() is None:
            own = 0.0
            for process in self._all(watched):
                try:
                    memory = process.memory_info()
                    found = _ACTOR.match(" ".join(process.cmdline()))
                except psutil.Error:
                    continue  # it has just ended
                own += (memory.rss - getattr(memory, "shared", 0)) / 1e9
                self._note("largest_process_gb", memory.rss / 1e9)
                if found is not None:
                    self._note(f"actor_of_{found[1]}_gb", memory.rss / 1e9)
            self._note("all_processes_gb", own)
            time.sleep(_LOOK_SECONDS)

    def _all(self, watched: psutil.Process) -> list[psutil.Process]:
        try:
            return [watched, *watched.children(recursive=True)]
        except psutil.Error:
            return []

    def _note(self, name: str, value: float) -> None:
        self._most[name] = max(self._most.get(name, 0.0), value)
