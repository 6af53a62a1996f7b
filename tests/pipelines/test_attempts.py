"""A row that kills its process is found by the marks that stay, and refused; others are made."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from infinite_id.config import preset
from pipelines.run.attempts import KILLED, Attempts, clear_attempts, loading
from pipelines.run.failures import RunFailedError
from pipelines.run.units import unit_table
from pipelines.stages.generation import GenerationActor
from pipelines.stages.scoring import ScoringActor
from pipelines.tables.schemas import IMAGES, REJECTS
from pipelines.tables.storage import Store
from tests.pipelines.conftest import small_plan


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    if request.param == "disk":
        return Store(tmp_path / "run")
    return Store(f"memory://{tmp_path.name}/run")


def _die(store: Store, stage: str, unit: int, row: int | None = None) -> None:
    """What a process leaves that dies while it works on a unit, or alone on a row of it."""
    store.touch(f"attempts/{stage}-{unit:09d}.{os.urandom(4).hex()}")
    if row is not None:
        store.touch(f"attempts/{stage}-{unit:09d}-{row}.{os.urandom(4).hex()}")


def _tried(store: Store, unit: int = 3) -> list[tuple[str, bool]]:
    with Attempts(store, "images").unit(unit) as attempt:
        return list(attempt.rows("abc"))


def test_a_unit_that_ends_leaves_no_mark(store):
    assert _tried(store) == [("a", True), ("b", True), ("c", True)]
    assert list(store.iter_names("attempts")) == []
    with pytest.raises(KeyError), Attempts(store, "images").unit(3):
        raise KeyError("an error is no death")
    assert clear_attempts(store) == {}


def test_a_unit_that_died_twice_is_done_row_by_row(store):
    _die(store, "images", 3)
    with Attempts(store, "images").unit(3) as attempt:
        assert not attempt.alone
    _die(store, "images", 3)
    _die(store, "scores", 4)
    with Attempts(store, "images").unit(3) as attempt:
        assert attempt.alone
        for row, _ in attempt.rows("ab"):
            number = "ab".index(row)
            marks = [name.partition(".")[0] for name in store.iter_names("attempts")]
            assert marks.count(f"images-000000003-{number}") == 1
            assert marks.count(f"images-000000003-{1 - number}") == 0
    with Attempts(store, "images").unit(4) as attempt:
        assert not attempt.alone


def test_a_row_that_alone_died_twice_is_refused_and_only_that_one(store):
    for _ in range(2):
        _die(store, "images", 3)
    _die(store, "images", 3, row=1)
    assert _tried(store) == [("a", True), ("b", True), ("c", True)]
    _die(store, "images", 3, row=1)
    assert _tried(store) == [("a", True), ("b", False), ("c", True)]


def test_a_new_run_of_the_driver_accuses_nobody_of_the_last_ones_end(store):
    for _ in range(2):
        _die(store, "images", 3, row=1)
    _die(store, "scores", 7)
    assert clear_attempts(store) == {"images": 2, "scores": 1}
    assert _tried(store) == [("a", True), ("b", True), ("c", True)]
    assert clear_attempts(store) == {}


def test_a_refused_request_and_a_refused_score_leave_their_unit_whole(run_store):
    plan = small_plan("timed", ["a {subject}", "two"])
    for _ in range(2):
        _die(run_store, "images", 0, row=1)
        _die(run_store, "scores", 0, row=2)
    rows = plan.table(0).to_pylist()
    images = GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    ScoringActor(run_store, plan, ["timed"], "pocket")(images)
    made = run_store.read_folder("images", IMAGES)["sample_id"].to_pylist()
    assert made == [row["sample_id"] for number, row in enumerate(rows) if number != 1]
    scores = pq.read_table(run_store.path("scores")).to_pylist()
    assert [row["sample_id"] for row in scores] == made
    assert math.isnan(scores[2]["timed"])
    rejects = run_store.read_folder("rejects", REJECTS).to_pylist()
    assert [(row["stage"], row["key"], row["reason"]) for row in rejects] == [
        ("images", rows[1]["sample_id"], KILLED[0]),
        ("scores", made[2], KILLED[0]),
    ]


def _die_loading(store: Store, actor: str) -> None:
    store.touch(f"attempts/images-load-{actor}.{os.urandom(4).hex()}")


def test_an_actor_that_died_thrice_as_it_loaded_gives_up_and_others_do_not(store):
    for _ in range(3):
        _die_loading(store, "a1")
    with pytest.raises(RunFailedError, match="stage images does not start: its process died 3 "):
        loading(store, "images", "a1").__enter__()
    for stage, actor in (("images", "a2"), ("scores", "a1")):
        with loading(store, stage, actor):
            assert len(list(store.iter_names("attempts"))) == 4
    assert clear_attempts(store) == {}
    assert list(store.iter_names("attempts")) == []


def test_an_actor_that_loads_at_last_is_accused_no_more(store):
    for _ in range(2):
        _die_loading(store, "a1")
    with loading(store, "images", "a1"):
        assert len(list(store.iter_names("attempts"))) == 3
    assert list(store.iter_names("attempts")) == []


_WORKER = """
import os, signal, sys
from pipelines.run.attempts import Attempts
from pipelines.tables.storage import Store
with Attempts(Store(sys.argv[1]), "images").unit(0) as attempt:
    done = []
    for row, allowed in attempt.rows("abcd"):
        if row == "c" and allowed:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(row if allowed else "-")
    print("".join(done))
"""


def test_a_process_that_kills_itself_is_survived_by_the_fifth(tmp_path):
    runs = [
        subprocess.run(
            [sys.executable, "-c", _WORKER, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for _ in range(5)
    ]
    assert [run.returncode for run in runs] == [-signal.SIGKILL] * 4 + [0]
    assert runs[-1].stdout == "ab-d\n"
