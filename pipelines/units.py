"""Units: the grain of work, of commits and of resume.

A unit is a numbered slice of work whose results are one Parquet file, `FOLDER/part-N.parquet`,
written atomically. The number alone names the file, so a unit done twice (a retry, a rerun) writes
the same file again, and a rerun finds what is left by listing names: no table of done rows is ever
held in memory. What was refused in a unit goes to `rejects/STAGE-N.parquet` first, then the
results are written: a unit whose results are there is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.metrics import count_rejects
from pipelines.schemas import REJECTS
from pipelines.storage import Store

__all__ = ["commit_unit", "committed_units", "read_unit", "reject_row", "unit_of", "unit_table"]


def _name(folder: str, unit: int) -> str:
    return f"{folder}/part-{unit:09d}.parquet"


def unit_table(units: Iterable[int]) -> pa.Table:
    """One row a unit: what enters the first stage."""
    return pa.table({"unit": pa.array(units, type=pa.int64())})


def unit_of(table: pa.Table, stage: str) -> int:
    """The unit that all rows of a block belong to.

    Raises:
        RuntimeError: the block mixes units, which would tear a commit.
    """
    units = set(table["unit"].to_pylist())
    if len(units) != 1:
        raise RuntimeError(f"stage {stage} got a block of the units {sorted(units)}, not of one")
    return units.pop()


def reject_row(
    stage: str, key: str, reason: str, message: str, image_id: str | None = None
) -> dict[str, Any]:
    """One row of `rejects`."""
    return {
        "stage": stage,
        "key": key,
        "image_id": image_id,
        "reason": reason,
        "message": " ".join(message.split()),
    }


def commit_unit(
    store: Store,
    folder: str,
    unit: int,
    rows: Sequence[Mapping[str, Any]] | pa.Table,
    schema: pa.Schema,
    rejects: Sequence[Mapping[str, Any]] = (),
    *,
    row_group_size: int | None = None,
) -> pa.Table:
    """Writes a unit's rejects, then its results; returns the results.

    Raises:
        StorageError: the run folder cannot be written.
    """
    if rejects:
        refused = pa.Table.from_pylist(list(rejects), schema=REJECTS)
        store.write_table(f"rejects/{folder}-{unit:09d}.parquet", refused)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    store.write_table(_name(folder, unit), table.cast(schema), row_group_size=row_group_size)
    count_rejects(folder, (row["reason"] for row in rejects))
    return table


def read_unit(
    store: Store, folder: str, unit: int, columns: list[str] | None = None
) -> pa.Table | None:
    """A unit's results, or some columns of them; None where it is not committed."""
    if not store.exists(_name(folder, unit)):
        return None
    return store.read_table(_name(folder, unit), columns)


def committed_units(store: Store, folder: str) -> set[int]:
    """Numbers of the units whose results are in `folder`."""
    return {
        int(name[len("part-") : -len(".parquet")])
        for name in store.names(folder, ".parquet")
        if name.startswith("part-")
    }
