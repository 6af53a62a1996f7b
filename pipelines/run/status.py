"""How far a run is, from its folder alone: running, done, failed or dead."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.run.lease import Lease
from pipelines.run.units import committed_units
from pipelines.tables.storage import Store

__all__ = ["RunStatus", "run_status"]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """State of a run.

    Attributes:
        state: "running", "done", "failed", or "dead": it says running and nobody holds its lease.
        people: people embedded so far.
        units, units_done: of pictures; None before the requests were planned.
        requests: pictures wanted; None before.
        rejects: rows refused so far.
        wanted, accepted: pictures of a synthesis; accepted ones of finished rounds; else None.
        updated: when run.json was last written, ISO 8601.
    """

    state: str
    people: int
    units: int | None
    units_done: int
    requests: int | None
    rejects: int
    updated: str
    wanted: int | None = None
    accepted: int | None = None

    @property
    def share(self) -> float:
        """Share of the picture units that are committed, in [0, 1]."""
        return self.units_done / self.units if self.units else 0.0


def run_status(url: str, options: Mapping[str, Any] | None = None) -> RunStatus:
    """Reads a run's folder; costs a listing and the footers of few files.

    Raises:
        ValueError: the folder holds no run.
    """
    store = Store(url, options)
    if not store.exists("run.json"):
        raise ValueError(f"{store.url} holds no run: it has no run.json")
    try:
        record = json.loads(store.read_bytes("run.json"))
        updated = datetime.datetime.fromisoformat(record["updated"]).isoformat()
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise ValueError(f"{store.url}/run.json is no run record: {error}") from error
    state = record.get("status", "failed")
    if state == "running" and not Lease.held(store):
        state = "dead"
    plan = record.get("plan", {})
    return RunStatus(
        state=state,
        people=store.count_rows("embeddings"),
        units=plan.get("units"),
        units_done=len(committed_units(store, "scores")),
        requests=plan.get("requests"),
        rejects=store.count_rows("rejects"),
        updated=updated,
        wanted=plan.get("wanted"),
        accepted=_accepted(store) if record.get("job") == "synthesis" else None,
    )


def _accepted(store: Store) -> int:
    return sum(
        sum(table["accepted"].to_pylist()) for table in store.tables("verdicts", ["accepted"])
    )
