"""What a synthesis draws: slots of people, in rounds, kept lazy.

A person p has slots 0 .. S-1; slot s has the text `s mod T` (T prompts in their styles) and, in
round r, the seed `base + r C + s // T` with C = ceil(S / T): no text is ever drawn twice with one
seed. People are cut into blocks. Inside a block requests are text-major (slot by slot, people
inside), and nothing outside a block decides about it: round r of a block holds the slots that the
block's `verdicts` of round r-1 left open. So a plan of 10^9 requests is arithmetic and small files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.plan.requests import PlanSettings, Subject, Text, request_row
from pipelines.run.units import read_unit
from pipelines.tables.schemas import REQUESTS
from pipelines.tables.storage import Store

__all__ = ["Draws", "RoundPlan", "SlotPlan", "cut_draws"]

_REQUESTS_PER_BLOCK = 65_536
_MOST_PEOPLE_PER_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Draws:
    """Requests of one block and round, text-major.

    Attributes:
        slots, people: int64 (N,), ascending by (slot, person).
    """

    slots: NDArray[np.int64]
    people: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.slots)


def cut_draws(slots: NDArray[np.int64], unit_size: int) -> list[int]:
    """Where units begin and, last, where the draws end.

    A slot's draws share a text, so they stay in one unit where they fit; a unit that is less than
    half full is filled up all the same, because small batches waste a GPU.

    Args:
        slots: int64 (N,), ascending.
        unit_size: most draws of a unit.
    """
    if len(slots) == 0:
        return [0]
    edges = np.flatnonzero(np.diff(slots)) + 1
    begins = [0, *edges.tolist()]
    ends = [*edges.tolist(), len(slots)]
    bounds, filled = [0], 0
    for begin, end in zip(begins, ends, strict=True):
        size = end - begin
        if filled + size <= unit_size:
            filled += size
            continue
        if 2 * filled < unit_size and filled:
            begin += unit_size - filled
        if filled:
            bounds.append(begin)
        parts = -(-(end - begin) // unit_size)
        bounds += [begin + n * (end - begin) // parts for n in range(1, parts)]
        filled = end - bounds[-1]
    return [*bounds, len(slots)]


class SlotPlan:
    """What all rounds share.

    Args:
        method: (name, model revision).
        texts: prompts in their styles.
        subjects: people and mixes.
        per_person: slots of each.
        seed: the first.
        settings: size, steps, guidance.
        unit_size: most requests of a unit, the generation batch.
        rounds: most draws of a slot.
    """

    def __init__(
        self,
        *,
        method: tuple[str, str],
        texts: Sequence[Text],
        subjects: Sequence[Subject],
        per_person: int,
        seed: int,
        settings: PlanSettings,
        unit_size: int,
        rounds: int,
    ) -> None:
        self.method, self.settings = method, settings
        self.texts, self.subjects = list(texts), list(subjects)
        self.per_person, self.unit_size, self.rounds = per_person, unit_size, rounds
        self._seed, self._copies = seed, -(-per_person // len(self.texts))
        units = max(1, _REQUESTS_PER_BLOCK // (per_person * unit_size))
        self._block_people = min(units * unit_size, max(_MOST_PEOPLE_PER_BLOCK, unit_size))

    @property
    def wanted(self) -> int:
        """Pictures, should every slot be filled."""
        return len(self.subjects) * self.per_person

    @property
    def blocks(self) -> int:
        """Number of blocks of people."""
        return -(-len(self.subjects) // self._block_people)

    def block_people(self, block: int) -> range:
        """Numbers of a block's people."""
        first = block * self._block_people
        return range(first, min(first + self._block_people, len(self.subjects)))

    def all_slots(self, block: int) -> Draws:
        """Every slot of a block: its round 0."""
        people = self.block_people(block)
        return Draws(
            np.repeat(np.arange(self.per_person, dtype=np.int64), len(people)),
            np.tile(np.arange(people.start, people.stop, dtype=np.int64), self.per_person),
        )

    def row(self, slot: int, person: int, number: int) -> dict[str, Any]:
        """The `requests` row of a slot's draw in round `number`."""
        copy, text = divmod(slot, len(self.texts))
        return request_row(
            self.method,
            self.subjects[person],
            self.texts[text],
            self._seed + number * self._copies + copy,
            self.settings,
        )

    def verdict(self, block: int, number: int) -> int:
        """Number of the `verdicts` file of a block's round: a person's rounds lie together."""
        return block * self.rounds + number

    @property
    def digest(self) -> str:
        """Names the plan: a run folder can only be resumed with the plan that began it."""
        parts = [
            self.method,
            [_record(text) for text in self.texts],
            [asdict(subject) for subject in self.subjects],
            self.per_person,
            self._seed,
            asdict(self.settings),
            self.unit_size,
            self.rounds,
        ]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _record(text: Text) -> dict[str, Any]:
    """A text by what decides its pictures: not by addresses."""
    record = asdict(text)
    del record["picture"], record["control"]
    return {**record, "pictures": text.pictures} if text.pictures else record


class RoundPlan:
    """One round: the units of all blocks, numbered from `first_unit` on. A `UnitPlan`.

    Args:
        slots: what all rounds share.
        store: the run folder, whose `verdicts` say what is open.
        number: of the round, from 0.
        first_unit: the number after the last unit of the round before.
    """

    def __init__(self, slots: SlotPlan, store: Store, number: int, first_unit: int) -> None:
        self.slots, self.number = slots, number
        self.methods, self.texts, self.subjects = [slots.method], slots.texts, slots.subjects
        self._store = store
        self._block: tuple[int, Draws] | None = None
        self._bounds = [
            np.array(cut_draws(self.draws(block).slots, slots.unit_size), dtype=np.int64)
            for block in range(slots.blocks)
        ]
        self._block = None
        sizes = (len(bounds) - 1 for bounds in self._bounds)
        self._firsts = list(accumulate(sizes, initial=first_unit))

    def __len__(self) -> int:
        """Number of requests."""
        return sum(int(bounds[-1]) for bounds in self._bounds)

    @property
    def units(self) -> range:
        """Numbers of the units."""
        return range(self._firsts[0], self._firsts[-1])

    def block_units(self, block: int) -> range:
        """Numbers of a block's units."""
        return range(self._firsts[block], self._firsts[block + 1])

    def draws(self, block: int) -> Draws:
        """The requests of a block: slots that the rounds before left open."""
        kept = self._block
        if kept is not None and kept[0] == block:
            return kept[1]
        found = self.slots.all_slots(block) if self.number == 0 else self._open(block)
        self._block = (block, found)
        return found

    def _open(self, block: int) -> Draws:
        number = self.slots.verdict(block, self.number - 1)
        verdicts = read_unit(self._store, "verdicts", number, ["slot", "person", "accepted"])
        if verdicts is None:
            raise RuntimeError(f"{self._store.url} lacks the verdicts of round {self.number - 1}")
        still = ~verdicts["accepted"].to_numpy(zero_copy_only=False)
        return Draws(verdicts["slot"].to_numpy()[still], verdicts["person"].to_numpy()[still])

    def _place(self, unit: int) -> tuple[int, int, int]:
        """(block, first draw, last draw + 1) of a unit."""
        block = int(np.searchsorted(self._firsts, unit, side="right")) - 1
        first, last = self._bounds[block][unit - self._firsts[block] :][:2]
        return block, int(first), int(last)

    def unit_rows(self, unit: int) -> int:
        """Number of requests of a unit."""
        _, first, last = self._place(unit)
        return last - first

    def rows(self, unit: int) -> list[tuple[int, int, dict[str, Any]]]:
        """(slot, person, `requests` row) of a unit's requests."""
        block, first, last = self._place(unit)
        draws = self.draws(block)
        pairs = zip(
            draws.slots[first:last].tolist(), draws.people[first:last].tolist(), strict=True
        )
        return [(slot, who, self.slots.row(slot, who, self.number)) for slot, who in pairs]

    def table(self, unit: int) -> pa.Table:
        """The requests of a unit, schema REQUESTS."""
        return pa.Table.from_pylist([row for _, _, row in self.rows(unit)], schema=REQUESTS)
