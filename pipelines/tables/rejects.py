"""What was refused, and why: rows of the table `rejects`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.tables.schemas import REJECTS
from pipelines.tables.storage import Store

__all__ = ["reject_row", "write_rejects"]


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


def write_rejects(
    store: Store, stage: str, unit: int, rejects: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the rejects of one unit of a stage in one file; none are no file."""
    if rejects:
        refused = pa.Table.from_pylist(list(rejects), schema=REJECTS)
        store.write_table(f"rejects/{stage}-{unit:09d}.parquet", refused)
