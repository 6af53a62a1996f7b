"""Pictures that are generated and not committed yet.

While a generation actor encodes and commits one batch it generates the next, and a kill would cost
it both. So before the next generation begins, the pixels of the last one are put aside in `made/`,
and whoever gets the unit again takes them from there: at most one generation batch of an actor is
lost. Like marks of attempts these files are not flushed to the disk, outlive processes and not
machines, and are removed once the unit is committed.

On object stores nothing is put aside unless it is asked for: an upload of raw pixels a batch,
during which the model waits, costs more than the moment that it covers.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipelines.tables.storage import StorageError, Store

__all__ = ["Made", "MadeUnits", "clear_made"]

_FOLDER = "made"


@dataclass(slots=True)
class Made:
    """What became of the rows of a unit.

    Attributes:
        numbers: of the rows that have a picture, within the unit.
        images: theirs, uint8 (H, W, 3) RGB.
        seconds: theirs, wall seconds of the batch divided by its size.
        rejects: rows of `rejects` for the others.
    """

    numbers: list[int] = field(default_factory=list)
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def __add__(self, other: Made) -> Made:
        return Made(
            self.numbers + other.numbers,
            self.images + other.images,
            self.seconds + other.seconds,
            self.rejects + other.rejects,
        )


class MadeUnits:
    """The units that an actor has put aside.

    Args:
        store: the run folder.
        anywhere: on object stores, too, and not just on disks.

    Attributes:
        used: whether anything is put aside in this folder.
    """

    def __init__(self, store: Store, *, anywhere: bool = False) -> None:
        self._store = store
        self.used = anywhere or store.is_local

    def keep(self, unit: int, made: Made) -> None:
        """Puts a unit's pictures aside.

        Raises:
            StorageError: they cannot be written.
        """
        if not self.used:
            return
        images = {f"image_{number}": image for number, image in enumerate(made.images)}
        rest = {"numbers": made.numbers, "seconds": made.seconds, "rejects": made.rejects}
        text = np.frombuffer(json.dumps(rest).encode(), dtype=np.uint8)
        self._store.write_bytes(_name(unit), save({"rest": text, **images}), flush=False)

    def find(self, unit: int) -> Made | None:
        """A unit's pictures, None where they have to be made."""
        if not self.used or not self._store.exists(_name(unit)):
            return None
        # A machine that lost its power may leave a file with a name and without its bytes.
        with contextlib.suppress(SafetensorError):
            arrays = load(self._store.read_bytes(_name(unit)))
            rest = json.loads(arrays["rest"].tobytes())
            images = [arrays[f"image_{number}"] for number in range(len(rest["numbers"]))]
            return Made(images=images, **rest)
        return None

    def drop(self, unit: int) -> None:
        """Forgets a unit that is committed."""
        if self.used:
            # What stays of a whole unit takes room until the run ends, and harms nothing.
            with contextlib.suppress(StorageError):
                self._store.delete(_name(unit))


def clear_made(store: Store) -> None:
    """Removes all that was put aside: for a run that has ended well."""
    for name in list(store.iter_names(_FOLDER)):
        store.delete(f"{_FOLDER}/{name}")
    if store.is_local:
        with contextlib.suppress(OSError):
            Path(store.path(_FOLDER)).rmdir()


def _name(unit: int) -> str:
    return f"{_FOLDER}/unit-{unit:09d}.safetensors"
