"""A lease on a run folder: two runs do not write to one folder by mistake.

`lease.json` says who writes and until when; its holder renews it. A holder that dies stops
renewing, so its lease runs out by itself; a dead process is seen at once by one that sees the same
processes: of the same machine, since it was started, in the same container.
A lease is made where there is none, in one step: what O_EXCL means on a disk, a conditional put on
an object store (`Store.create`). One that ran out is taken away first, by the one who makes a claim
to that very lease in the same way: whoever saw it run out and comes late takes nothing away that
was made since. A claim counts for half a minute, for its maker may have died. A holder reads its
lease before it renews it, and stops if another's is there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from eval.places import StorageError
from pipelines.run.failures import RunFailedError
from pipelines.tables.storage import Store

__all__ = ["Lease", "LeaseLostError"]

_NAME = "lease.json"
# A claim takes two small requests; one older than this is a dead process's.
_CLAIM_SECONDS = 30.0
_WAIT_SECONDS = 0.1
# Longer than such a claim lasts.
_TRIES = 400


class LeaseLostError(RunFailedError):
    """Another run has taken the folder over."""


@functools.cache
def _machine() -> str:
    """Names the processes that a process number is one of: host, start of the machine, container.

    Containers and copied machines may share a host name, and process numbers begin anew in each.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _started(pid: int) -> float | None:
    """When a process of this machine began, None where there is none."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


class Lease:
    """Held while the context is open.

    Args:
        store: the run folder.
        seconds: a lease that was not renewed for so long is nobody's.
        clock: seconds since the epoch.

    Raises:
        ValueError: on entering: another live run holds the folder; StorageError (a ValueError):
            it cannot be written.
    """

    def __init__(
        self, store: Store, seconds: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        if seconds <= 0:
            raise ValueError(f"lease is {seconds} s, allowed: more than 0")
        self._store, self._seconds, self._clock = store, seconds, clock
        self._token = uuid.uuid4().hex
        self._ended = threading.Event()
        self._lost: str | None = None
        self._interrupts = False
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        for _ in range(_TRIES):
            if self._store.create(_NAME, self._mine()):
                self._thread.start()
                return self
            holder = self._read()
            if holder is not None and self._alive(holder):
                left = holder["until"] - self._clock()
                raise ValueError(
                    f"output {self._store.url} is being written by process {holder['pid']} on "
                    f"{holder['host']}, allowed: another --output, or the same once that run has "
                    f"ended (a dead one's lease runs out in {max(left, 0):.0f} s)"
                )
            if (holder is not None or self._store.exists(_NAME)) and not self._take_away(holder):
                time.sleep(_WAIT_SECONDS)
        raise StorageError(f"{self._store.url}/{_NAME} does not stay as it is written")

    def _take_away(self, holder: dict[str, Any] | None) -> bool:
        """Removes this very lease, which ran out or cannot be read; False: another does it now."""
        token = str(holder and holder["token"])
        claim = f".lease-{hashlib.sha256(token.encode()).hexdigest()[:16]}.claim"
        until = str(time.time() + _CLAIM_SECONDS).encode()
        if not self._store.create(claim, until):
            with contextlib.suppress(StorageError, ValueError):
                if time.time() >= float(self._store.read_bytes(claim)):
                    self._store.delete(claim)
            return False
        try:
            # It was read before the claim: since then another may have taken it away, and its own
            # holder, which was late, may have renewed it.
            again = self._read()
            same = str(again and again["token"]) == token
            if same and not (again and self._alive(again)):
                self._store.delete(_NAME)
        finally:
            self._store.delete(claim)
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        # A place that is gone ends the run with its own error; the lease runs out by itself.
        with contextlib.suppress(StorageError):
            holder = self._read()
            if holder is not None and holder["token"] == self._token:
                self._store.delete(_NAME)

    @classmethod
    def held(cls, store: Store) -> bool:
        """Whether a live run holds the folder."""
        looking = cls(store)
        holder = looking._read()
        return holder is not None and looking._alive(holder)

    def check(self) -> None:
        """Raises LeaseLostError if another run has taken the folder over."""
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside, a lease that is lost ends what the main thread waits for, for work in which
        nobody calls `check` for long. It needs a handler of SIGTERM (`jobs.console`).

        Raises:
            LeaseLostError: another run has taken the folder over.
        """
        self._interrupts = True
        try:
            self.check()
            yield
        except KeyboardInterrupt:
            self.check()
            raise
        finally:
            self._interrupts = False
        self.check()

    def _alive(self, holder: dict[str, Any]) -> bool:
        if self._clock() >= holder["until"]:
            return False
        if holder.get("machine") != _machine():
            return True
        began = _started(holder["pid"])
        return began is not None and abs(began - holder["began"]) < 1.0

    def _read(self) -> dict[str, Any] | None:
        if not self._store.exists(_NAME):
            return None
        try:
            holder = json.loads(self._store.read_bytes(_NAME))
        except StorageError:
            # What is there and cannot be read may be a live run's.
            if self._store.exists(_NAME):
                raise
            return None
        except (json.JSONDecodeError, UnicodeDecodeError):
            return None
        wanted = {"token", "host", "pid", "began", "until"}
        return holder if isinstance(holder, dict) and wanted <= set(holder) else None

    def _mine(self) -> bytes:
        holder = {
            "token": self._token,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "began": _started(os.getpid()),
            "until": self._clock() + self._seconds,
        }
        return json.dumps(holder).encode()

    def _renew(self) -> None:
        while not self._ended.wait(self._seconds / 4):
            try:
                holder = self._read()
                if holder is not None and holder["token"] != self._token:
                    self._lost = (
                        f"process {holder['pid']} on {holder['host']} has taken over output "
                        f"{self._store.url}"
                    )
                    main = threading.main_thread().ident
                    if main and self._interrupts and callable(signal.getsignal(signal.SIGTERM)):
                        signal.pthread_kill(main, signal.SIGTERM)
                    return
                self._store.write_bytes(_NAME, self._mine())
            except StorageError:
                # The store may be away for a moment; the lease lasts several renewals.
                continue
