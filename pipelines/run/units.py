"""Units: the grain of work, of commits and of resume.

A unit is a numbered slice of work whose results are one Parquet file, `FOLDER/part-N.parquet`,
written atomically. The number alone names the file, so a unit done twice (a retry, a rerun) writes
the same file again, and a rerun finds what is left by listing names: no table of done rows is ever
held in memory. What was refused in a unit goes to `rejects/STAGE-N.parquet` first, then the
results are written: a unit whose results are there is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.run.counters import count_rejects
from pipelines.tables.rejects import write_rejects
from pipelines.tables.storage import Store
from pipelines.tables.table_checks import check_keys

__all__ = [
    "commit_unit",
    "committed_units",
    "read_unit",
    "unit_block",
    "unit_flags",
    "unit_of",
    "unit_table",
]


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


def unit_block(table: pa.Table, unit: int) -> pa.Table:
    """A unit's results as the block for the next stage, with its number in every row.

    A unit without a result still goes on, as one row of nulls: the next stage marks it as done.
    """
    if table.num_rows == 0:
        nullable = pa.schema([pa.field(field.name, field.type) for field in table.schema])
        table = pa.Table.from_pylist([{}], schema=nullable)
    return table.append_column("unit", pa.array([unit] * table.num_rows, type=pa.int64()))


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
        RuntimeError: a key stands twice.
    """
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    table = table.cast(schema)
    check_keys(table, f"{folder}, unit {unit}")
    write_rejects(store, folder, unit, rejects)
    store.write_table(_name(folder, unit), table, row_group_size=row_group_size)
    count_rejects(folder, (row["reason"] for row in rejects))
    return table


def read_unit(
    store: Store, folder: str, unit: int, columns: list[str] | None = None
) -> pa.Table | None:
    """A unit's results, or some columns of them; None where it is not committed."""
    if not store.exists(_name(folder, unit)):
        return None
    return store.read_table(_name(folder, unit), columns)


def _committed(store: Store, folder: str) -> Iterator[int]:
    for name in store.iter_names(folder):
        if name.startswith("part-") and name.endswith(".parquet"):
            yield int(name[len("part-") : -len(".parquet")])


def committed_units(store: Store, folder: str) -> set[int]:
    """Numbers of the units whose results are in `folder`."""
    return set(_committed(store, folder))


def unit_flags(store: Store, folder: str, total: int) -> NDArray[np.bool_]:
    """(total,): whether each unit is committed; a byte a unit, so that millions are no burden."""
    flags = np.zeros(total, dtype=np.bool_)
    for unit in _committed(store, folder):
        if unit < total:
            flags[unit] = True
    return flags
