"""Attempts: finding the row that kills its process.

A process that dies (out of memory, a crash in a decoder's C code) cannot say what it was doing, and
Ray restarts it and repeats its unit for ever. So an actor leaves a mark in `attempts/` before it
begins a unit and takes it away afterwards: a mark that stayed is a try that ended with its process.
A unit that twice took its process with it is done row by row, each with a mark of its own, and a
row that alone took two is refused. Its unit then commits like any other.

Marks are empty files; their names say everything: `STAGE-UNIT.TOKEN` and `STAGE-UNIT-ROW.TOKEN`.
They count within one run of the driver: whoever begins or resumes a run clears them, because the
tries that a dead driver took with it accuse nobody.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pipelines.storage import StorageError, Store

__all__ = ["KILLED", "Attempt", "Attempts", "clear_attempts"]

KILLED = ("killed_its_process", "the process that worked on it died, in its batch and alone")
"""Reason and message of a refused row."""

_FOLDER = "attempts"
_MOST = 2

Row = TypeVar("Row")


class Attempts:
    """Marks of one actor. Threads may use it at once, each with units of its own.

    Args:
        store: the run folder.
        stage: of the actor.

    Raises:
        StorageError: the folder cannot be listed.
    """

    def __init__(self, store: Store, stage: str) -> None:
        self._store, self._stage = store, stage
        # A dead process' unit comes to a process that was started after it: one look is enough.
        self._dead = Counter(
            name.partition(".")[0]
            for name in store.iter_names(_FOLDER)
            if name.startswith(f"{stage}-")
        )

    @contextlib.contextmanager
    def unit(self, unit: int) -> Iterator[Attempt]:
        """Held while a unit is worked on.

        Raises:
            StorageError: the mark cannot be written.
        """
        name = f"{self._stage}-{unit:09d}"
        with self.mark(name):
            yield Attempt(self, name)

    def gave_up(self, name: str) -> bool:
        """Whether what a mark names has taken too many processes with it."""
        return self._dead[name] >= _MOST

    @contextlib.contextmanager
    def mark(self, name: str) -> Iterator[None]:
        """A mark that stands while the context is open."""
        mark = f"{_FOLDER}/{name}.{uuid.uuid4().hex}"
        self._store.touch(mark)
        try:
            yield
        finally:
            # A mark too many costs a unit its batch; an error here would hide the one under way.
            with contextlib.suppress(StorageError):
                self._store.delete(mark)


class Attempt:
    """One try of a unit.

    Attributes:
        alone: whether its rows have to be taken one by one.
    """

    def __init__(self, attempts: Attempts, name: str) -> None:
        self._attempts, self._name = attempts, name
        self.alone = attempts.gave_up(name)

    def rows(self, rows: Iterable[Row]) -> Iterator[tuple[Row, bool]]:
        """The unit's rows, each with whether it may be tried. Where `alone`, a mark stands for
        each until the next is asked for."""
        for number, row in enumerate(rows):
            name = f"{self._name}-{number}"
            if not self.alone:
                yield row, True
            elif self._attempts.gave_up(name):
                yield row, False
            else:
                with self._attempts.mark(name):
                    yield row, True


def clear_attempts(store: Store) -> dict[str, int]:
    """Takes all marks away; returns the tries of whole units that had died, by stage."""
    died: Counter[str] = Counter()
    for name in list(store.iter_names(_FOLDER)):
        parts = name.partition(".")[0].split("-")
        if len(parts) == 2:
            died[parts[0]] += 1
        store.delete(f"{_FOLDER}/{name}")
    if store.is_local:
        with contextlib.suppress(OSError):
            Path(store.path(_FOLDER)).rmdir()
    return dict(died)
