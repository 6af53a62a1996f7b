"""The status of a run, from its folder alone."""

from __future__ import annotations

import pytest

from pipelines.run.folder import RunFolder, Timings
from pipelines.run.lease import Lease
from pipelines.run.status import run_status
from pipelines.run.units import commit_unit
from pipelines.tables.rejects import reject_row
from pipelines.tables.storage import Store
from tests.pipelines.conftest import embeddings_table


@pytest.fixture
def begun(tmp_path):
    """A run with 3 people, 1 of 4 units and 1 reject, that says it is running."""
    run = RunFolder(str(tmp_path / "run"))
    run.update(status="running", plan={"requests": 8, "units": 4})
    table = embeddings_table(3)
    run.store.write_table("embeddings/part-000000000.parquet", table)
    refused = [reject_row("scores", "s", "failed", "a\nb")]
    commit_unit(run.store, "scores", 0, table, table.schema, refused)
    return run


def test_a_run_without_a_lease_is_dead(begun):
    found = run_status(begun.store.url)
    assert (found.state, found.people, found.units_done, found.units) == ("dead", 3, 1, 4)
    assert (found.requests, found.rejects, found.share) == (8, 1, 0.25)


def test_a_run_with_a_lease_is_running(begun):
    with Lease(begun.store):
        assert run_status(begun.store.url).state == "running"


def test_a_failure_is_recorded(begun):
    timings = Timings({"faces": {"seconds": 1.0, "rows": 2}})
    with pytest.raises(KeyError), begun.recording(timings, digests={}):
        raise KeyError("x")
    assert run_status(begun.store.url).state == "failed"
    assert RunFolder(begun.store.url, resume=True).record["timings"] == timings.record


def test_other_inputs_are_refused(begun):
    begun.claim("inputs", "a")
    again = RunFolder(begun.store.url, resume=True)
    again.claim("inputs", "a")
    with pytest.raises(ValueError, match="belongs to a run with other inputs, allowed"):
        again.claim("inputs", "b")


def test_no_run_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run: it has no run\.json"):
        run_status(str(tmp_path))
    Store(tmp_path).write_bytes("run.json", b"{")
    with pytest.raises(ValueError, match="is no run record"):
        run_status(str(tmp_path))
