"""A process that dies between generation and commit, and pictures that cannot be encoded."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from eval.places import StorageError
from infinite_id.config import preset
from infinite_id.timed import TimedGenerator
from pipelines.run.attempts import clear_attempts
from pipelines.run.units import committed_units, unit_table
from pipelines.stages.generation import GenerationActor
from pipelines.tables.schemas import IMAGES, REJECTS
from pipelines.tables.storage import Store
from tests.pipelines.conftest import small_plan

_KILLED_AS_IT_ENCODES = """
import os, signal, sys
from pathlib import Path
from infinite_id.config import preset
from pipelines.stages.generation import GenerationActor
from pipelines.tables.storage import Store
from pipelines.run.units import unit_table
from tests.pipelines.conftest import small_plan
class Killed(GenerationActor):
    def _encode_picture(self, row, image):
        os.kill(os.getpid(), signal.SIGKILL)
actor = Killed(Store(sys.argv[1]), small_plan("timed", ["a {subject}", "two"]), preset("pocket"))
actor(unit_table([0]))
"""


def _kill_as_it_encodes(store: Store) -> None:
    command = [sys.executable, "-c", _KILLED_AS_IT_ENCODES, store.url]
    assert subprocess.run(command, timeout=120, check=False).returncode == -9


def _generations(monkeypatch) -> list[int]:
    calls: list[int] = []
    generate = TimedGenerator.generate

    def counted(self, requests, *args, **kwargs):
        calls.append(len(requests))
        return generate(self, requests, *args, **kwargs)

    monkeypatch.setattr(TimedGenerator, "generate", counted)
    return calls


def test_a_kill_between_generation_and_commit_costs_that_batch_and_is_counted(
    run_store, monkeypatch
):
    plan = small_plan("timed", ["a {subject}", "two"])
    _kill_as_it_encodes(run_store)
    assert committed_units(run_store, "images") == set()
    calls = _generations(monkeypatch)
    GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    assert calls == [6]
    assert run_store.read_folder("images", IMAGES).num_rows == 6
    assert clear_attempts(run_store) == {"images": 1}


def test_a_unit_that_kills_as_it_is_encoded_is_not_tried_for_ever(run_store, monkeypatch):
    for _ in range(2):
        _kill_as_it_encodes(run_store)
    calls = _generations(monkeypatch)
    plan = small_plan("timed", ["a {subject}", "two"])
    GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    assert calls == [1] * 6
    assert run_store.read_folder("images", IMAGES).num_rows == 6


def test_one_unit_is_generated_while_the_one_before_is_encoded(run_store, monkeypatch):
    plan = small_plan("timed", ["a {subject}", "two"], unit_size=3)
    actor = GenerationActor(run_store, plan, preset("pocket"))
    begun: list[int] = []
    second_began = threading.Event()
    generate, encode = TimedGenerator.generate, GenerationActor._encode_picture

    def watched(self, requests, *args, **kwargs):
        begun.append(len(requests))
        if len(begun) == 2:
            second_began.set()
        return generate(self, requests, *args, **kwargs)

    def slow(self, row, image):
        assert second_began.wait(60)
        return encode(self, row, image)

    monkeypatch.setattr(TimedGenerator, "generate", watched)
    monkeypatch.setattr(GenerationActor, "_encode_picture", slow)
    threads = [threading.Thread(target=actor, args=(unit_table([unit]),)) for unit in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert committed_units(run_store, "images") == {0, 1}
    assert list(run_store.iter_names("attempts")) == []


def test_a_picture_that_cannot_be_encoded_does_not_cost_its_batch_mates(run_store, monkeypatch):
    plan = small_plan("timed", ["a {subject}", "two"])
    rows = plan.table(0).to_pylist()
    encode = GenerationActor._encode_picture

    def broken(self, row, image):
        if row["sample_id"] == rows[1]["sample_id"]:
            raise ValueError("no such picture")
        return encode(self, row, image)

    monkeypatch.setattr(GenerationActor, "_encode_picture", broken)
    GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    assert run_store.read_folder("images", IMAGES).num_rows == 5
    rejects = run_store.read_folder("rejects", REJECTS).to_pylist()
    assert [(row["key"], row["reason"]) for row in rejects] == [(rows[1]["sample_id"], "refused")]


def test_a_disk_that_fails_while_pictures_are_encoded_ends_the_run(run_store, monkeypatch):
    def broken(self, row, image):
        raise StorageError("cannot write: no space left")

    monkeypatch.setattr(GenerationActor, "_encode_picture", broken)
    actor = GenerationActor(run_store, small_plan("timed", ["a"]), preset("pocket"))
    with pytest.raises(StorageError, match="no space left"):
        actor(unit_table([0]))
    assert committed_units(run_store, "images") == set()
