"""What a synthesis accepted, person by person, and why it refused the rest."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines.run.units import read_unit
from pipelines.synthesis.gates import REASONS
from pipelines.synthesis.slots import SlotPlan
from pipelines.tables.storage import Store

__all__ = ["SynthesisReport", "write_synthesis_report"]

_PEOPLE = pa.schema(
    [
        ("identity_id", pa.string()),
        ("wanted", pa.int64()),
        ("accepted", pa.int64()),
        ("drawn", pa.int64()),
        *((f"refused_{reason}", pa.int64()) for reason in REASONS),
    ]
)


@dataclass(frozen=True, slots=True)
class SynthesisReport:
    """Sums over a synthesis.

    Attributes:
        people, complete: people, and those with every slot filled.
        wanted, accepted, drawn: pictures.
        reasons: refused pictures by reason.
        rounds: drawn and accepted pictures of each round.
        fewest: (person, accepted) of the people who have least, at most ten.
    """

    people: int
    complete: int
    wanted: int
    accepted: int
    drawn: int
    reasons: dict[str, int]
    rounds: list[dict[str, int]]
    fewest: list[tuple[str, int]]


def write_synthesis_report(store: Store, slots: SlotPlan) -> SynthesisReport:
    """Writes `report/people/` (a row a person) and `report/synthesis.json`.

    Memory holds one block of people, whatever the run's size.

    Raises:
        StorageError: the run folder cannot be read or written.
    """
    totals: Counter[str] = Counter()
    rounds = [{"drawn": 0, "accepted": 0} for _ in range(slots.rounds)]
    fewest: list[tuple[str, int]] = []
    for block in range(slots.blocks):
        rows = _block(store, slots, block, rounds)
        table = pa.Table.from_pylist(rows, schema=_PEOPLE)
        store.write_table(f"report/people/part-{block:09d}.parquet", table)
        totals.update({k: sum(row[k] for row in rows) for k in _PEOPLE.names[1:]})
        totals["complete"] += sum(row["accepted"] >= row["wanted"] for row in rows)
        short = [(row["identity_id"], row["accepted"]) for row in rows]
        fewest = sorted([*fewest, *short], key=lambda pair: pair[1])[:10]
    report = SynthesisReport(
        people=len(slots.subjects),
        complete=totals["complete"],
        wanted=totals["wanted"],
        accepted=totals["accepted"],
        drawn=totals["drawn"],
        reasons={r: totals[f"refused_{r}"] for r in REASONS if totals[f"refused_{r}"]},
        rounds=[entry for entry in rounds if entry["drawn"]],
        fewest=fewest,
    )
    store.write_bytes("report/synthesis.json", json.dumps(asdict(report), indent=1).encode())
    return report


def _block(
    store: Store, slots: SlotPlan, block: int, rounds: list[dict[str, int]]
) -> list[dict[str, Any]]:
    people = slots.block_people(block)
    counts: dict[int, Counter[str]] = {person: Counter() for person in people}
    for number in range(slots.rounds):
        columns = ["person", "accepted", "reason"]
        verdicts = read_unit(store, "verdicts", slots.verdict(block, number), columns)
        for row in verdicts.to_pylist() if verdicts is not None else ():
            rounds[number]["drawn"] += 1
            rounds[number]["accepted"] += row["accepted"]
            counts[row["person"]]["drawn"] += 1
            counts[row["person"]]["accepted" if row["accepted"] else row["reason"]] += 1
    return [
        {
            "identity_id": slots.subjects[person].identity_id,
            "wanted": slots.per_person,
            "accepted": counts[person]["accepted"],
            "drawn": counts[person]["drawn"],
            **{f"refused_{reason}": counts[person][reason] for reason in REASONS},
        }
        for person in people
    ]
