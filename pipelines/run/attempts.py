"""Attempts: finding the row that kills its process.

A process that dies (out of memory, a crash in a decoder's C code) cannot say what it was doing, and
Ray restarts it and repeats its unit for ever. So an actor leaves a mark in `attempts/` before it
begins a unit and takes it away afterwards: a mark that stayed is a try that ended with its process.
A unit that twice took its process with it is done row by row, each with a mark of its own, and a
row that alone took two is refused. Its unit then commits like any other.

An actor whose process dies while it loads its model would be restarted for ever, too: it leaves a
mark of its own, and gives up after a few.

Marks are empty files; their names say everything: `STAGE-UNIT.TOKEN`, `STAGE-UNIT-ROW.TOKEN` and
`STAGE-load-ACTOR.TOKEN`. They count within
one run of the driver: whoever begins or resumes a run clears them, because the tries that a dead
driver took with it accuse nobody.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from eval.places import StorageError
from pipelines.run.failures import RunFailedError
from pipelines.tables.storage import Store

__all__ = ["KILLED", "Attempt", "Attempts", "clear_attempts", "loading"]

KILLED = ("killed_its_process", "the process that worked on it died, in its batch and alone")
"""Reason and message of a refused row."""

_FOLDER = "attempts"
_MOST = 2
_MOST_LOADS = 3

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

    def mark(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A mark that stands while the context is open."""
        return _mark(self._store, name)


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


@contextlib.contextmanager
def _mark(store: Store, name: str) -> Iterator[None]:
    mark = f"{_FOLDER}/{name}.{uuid.uuid4().hex}"
    store.touch(mark)
    try:
        yield
    finally:
        # A mark too many costs a unit its batch; an error here would hide the one under way.
        with contextlib.suppress(StorageError):
            store.delete(mark)


@contextlib.contextmanager
def loading(store: Store, stage: str, actor: str) -> Iterator[None]:
    """Held while an actor loads what it needs.

    Args:
        store: the run folder.
        stage: of the actor.
        actor: names it, and what it loads; the same after a restart.

    Raises:
        RunFailedError: its process has died too often while it loaded.
        StorageError: a mark cannot be looked for or written.
    """
    name = f"{stage}-load-{actor}"
    dead = [mark for mark in store.iter_names(_FOLDER) if mark.partition(".")[0] == name]
    if len(dead) >= _MOST_LOADS:
        raise RunFailedError(
            f"stage {stage} does not start: its process died {len(dead)} times while it loaded"
        )
    with _mark(store, name):
        yield
    # It has started: deaths that it survived accuse it no more.
    for mark in dead:
        store.delete(f"{_FOLDER}/{mark}")


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
