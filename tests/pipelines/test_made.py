"""Generated pictures outlive the process that has not committed them yet."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from infinite_id.config import preset
from infinite_id.timed import TimedGenerator
from pipelines.made import Made, MadeUnits, clear_made
from pipelines.run.attempts import clear_attempts
from pipelines.run.units import committed_units, reject_row, unit_table
from pipelines.stages.generation import GenerationActor
from pipelines.tables.schemas import IMAGES, REJECTS
from pipelines.tables.storage import StorageError, Store
from tests.pipelines.conftest import embeddings_table, small_plan

_MADE = Made(
    [0, 2],
    [np.full((4, 6, 3), value, np.uint8) for value in (7, 9)],
    [0.25, 0.5],
    [reject_row("images", "s1", "refused", "ValueError: too long")],
)


def test_what_is_put_aside_comes_back_whole(tmp_path):
    units = MadeUnits(Store(tmp_path))
    assert units.find(3) is None
    units.keep(3, _MADE)
    found = units.find(3)
    assert (found.numbers, found.seconds, found.rejects) == ([0, 2], [0.25, 0.5], _MADE.rejects)
    assert all(np.array_equal(a, b) for a, b in zip(found.images, _MADE.images, strict=True))
    units.drop(3)
    assert units.find(3) is None


@pytest.mark.parametrize("left", [0, 100, -30])
def test_a_file_without_its_end_is_made_again(tmp_path, left):
    units = MadeUnits(Store(tmp_path))
    units.keep(3, _MADE)
    path = tmp_path / "made/unit-000000003.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    assert units.find(3) is None


def test_on_an_object_store_nothing_is_put_aside_unless_asked_for():
    store = Store("memory://made-test/run")
    units = MadeUnits(store)
    units.keep(3, _MADE)
    units.drop(3)
    assert units.find(3) is None
    assert not store.exists("made")
    asked = MadeUnits(store, anywhere=True)
    asked.keep(3, _MADE)
    assert asked.find(3).numbers == [0, 2]
    clear_made(store)
    assert asked.find(3) is None


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


def test_a_kill_between_generation_and_commit_loses_no_generation(run_store, monkeypatch):
    plan = small_plan("timed", ["a {subject}", "two"])
    _kill_as_it_encodes(run_store)
    assert committed_units(run_store, "images") == set()
    calls = _generations(monkeypatch)
    GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    assert calls == []
    assert not run_store.exists("made/unit-000000000.safetensors")
    kept = run_store.read_folder("images", IMAGES)
    assert clear_attempts(run_store) == {}
    run_store.delete("images/part-000000000.parquet")
    GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    assert calls == [6]
    made = run_store.read_folder("images", IMAGES)
    assert made.drop_columns("seconds").equals(kept.drop_columns("seconds"))


def test_a_batch_that_was_not_put_aside_counts_as_lost(monkeypatch):
    store = Store("memory://made-test/lost")
    store.write_table("embeddings/part-000000000.parquet", embeddings_table(3))
    seen: list[list[str]] = []
    encode = GenerationActor._encode_picture

    def watched(self, row, image):
        seen.append([name.partition(".")[0] for name in store.iter_names("attempts")])
        return encode(self, row, image)

    monkeypatch.setattr(GenerationActor, "_encode_picture", watched)
    plan = small_plan("timed", ["a"])
    for put_aside in (False, True):
        GenerationActor(store, plan, preset("pocket"), put_aside=put_aside)(unit_table([0]))
        store.delete("images/part-000000000.parquet")
    assert seen == [["images-000000000"]] * 3 + [["images-000000000-made"]] * 3


def test_a_unit_that_kills_as_it_is_encoded_is_not_tried_for_ever(run_store, monkeypatch):
    for _ in range(2):
        _kill_as_it_encodes(run_store)
    calls = _generations(monkeypatch)
    plan = small_plan("timed", ["a {subject}", "two"])
    GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    assert calls == [1] * 6
    assert run_store.read_folder("images", IMAGES).num_rows == 6


def test_a_batch_is_generated_only_when_the_one_before_is_put_aside(run_store, monkeypatch):
    """Two calls: while the first encodes, the second one generates, with the first put aside."""
    plan = small_plan("timed", ["a {subject}", "two"], unit_size=3)
    actor = GenerationActor(run_store, plan, preset("pocket"))
    aside: list[set[str]] = []
    second_began = threading.Event()
    generate, encode = TimedGenerator.generate, GenerationActor._encode_picture

    def watched(self, requests, *args, **kwargs):
        aside.append(set(run_store.iter_names("made")))
        if len(aside) == 2:
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
    assert [len(names) for names in aside] == [0, 1]
    assert committed_units(run_store, "images") == {0, 1}
    assert list(run_store.iter_names("made")) == []


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
