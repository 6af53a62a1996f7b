"""A key stands once: two prompts of one text are two rows, and a commit refuses a double."""

from __future__ import annotations

import pytest

from pipelines.plan.requests import PlanSettings, RequestPlan, Subject, Text
from pipelines.run.units import commit_unit
from pipelines.tables.schemas import REQUESTS
from pipelines.tables.storage import Store


def _plan() -> RequestPlan:
    text = "a {subject} on the beach"
    return RequestPlan(
        methods=[("infinite_id", "r")],
        texts=[Text("a", "raw", text, "", ""), Text("b", "raw", text, "", "")],
        subjects=[Subject("ada", "woman", "d")],
        seeds=[0, 1],
        settings=PlanSettings(64, 64, 4, 5.0),
        unit_size=8,
    )


def test_two_prompts_of_one_text_have_two_ids():
    rows = _plan().table(0).to_pylist()
    assert len({row["sample_id"] for row in rows}) == 4
    assert {row["prompt"] for row in rows} == {"a woman on the beach"}
    assert [row["sample_id"] for row in _plan().table(0).to_pylist()] == [
        row["sample_id"] for row in rows
    ]


def test_a_commit_refuses_a_key_that_stands_twice(tmp_path):
    rows = _plan().table(0).to_pylist()
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match=r"requests, unit 3, column 'sample_id': '.*' stands 2"):
        commit_unit(store, "requests", 3, [*rows, rows[0]], REQUESTS)
    assert not store.names("requests")
    commit_unit(store, "requests", 3, rows, REQUESTS)
    assert store.names("requests") == ["part-000000003.parquet"]
