"""Actors without Ray: commits, refused requests, provenance, bounded look-ups."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from infinite_id.config import preset
from infinite_id.details_config import DetailsConfig
from infinite_id.methods import METHODS, MethodSpec
from infinite_id.timed import TimedGenerator
from infinite_id.types import AI_GENERATED
from pipelines.run.units import committed_units, unit_of, unit_table
from pipelines.stages.generation import GenerationActor
from pipelines.tables.people import IdentityStore, people_notes, write_index
from pipelines.tables.pictures import decode_image, encode_image
from pipelines.tables.schemas import EMBEDDINGS, IMAGES, REJECTS
from pipelines.tables.storage import Store
from tests.pipelines.conftest import embeddings_table, small_plan


def test_a_unit_is_committed_with_its_provenance(run_store):
    plan = small_plan("timed", ["a {subject}", "two"])
    actor = GenerationActor(run_store, plan, preset("pocket"))
    out = actor(unit_table([0]))
    rows = run_store.read_folder("images", IMAGES).to_pylist()
    assert committed_units(run_store, "images") == {0}
    assert [row["sample_id"] for row in rows] == [
        row["sample_id"] for row in plan.table(0).to_pylist()
    ]
    assert [row["consent"] for row in rows] == ["form 0", "form 1", "form 2"] * 2
    assert rows[0]["model_revision"] == "revision-1"
    assert decode_image(rows[0]["image"]).shape == (64, 64, 3)
    assert unit_of(out, "test") == 0


def test_a_committed_unit_is_read_and_not_made_again(run_store):
    plan = small_plan("timed", ["a"])
    first = GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    path = run_store.path("images/part-000000000.parquet")
    before = run_store.fs.modified(path)
    again = GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    assert again.equals(first)
    assert run_store.fs.modified(path) == before


def test_a_refused_request_does_not_cost_its_batch_mates(run_store):
    plan = small_plan("infinite_id", ["a {subject}", "far too long " * 60])
    actor = GenerationActor(run_store, plan, preset("pocket"), threads=2)
    actor(unit_table([0]))
    rows = plan.table(0).to_pylist()
    made = run_store.read_folder("images", IMAGES)["sample_id"].to_pylist()
    rejects = run_store.read_folder("rejects", REJECTS).to_pylist()
    assert sorted(made) == sorted(r["sample_id"] for r in rows if r["prompt_id"] == "p0")
    assert sorted(r["key"] for r in rejects) == sorted(
        r["sample_id"] for r in rows if r["prompt_id"] == "p1"
    )
    assert {r["reason"] for r in rejects} == {"refused"}
    assert all("tokens, allowed:" in r["message"] for r in rejects)


def test_small_faces_that_were_made_again_are_counted(run_store):
    plan = small_plan("infinite_id", ["a {subject}"])
    family = replace(preset("pocket"), details=DetailsConfig(share=1.0, margin=0.1))
    GenerationActor(run_store, plan, family)(unit_table([0]))
    counts = run_store.read_folder("images", IMAGES)["details"].to_pylist()
    assert len(counts) == 3
    assert set(counts) <= {0, 1}
    plain = Store(run_store.path("plain"))
    plain.write_table("embeddings/part-000000000.parquet", embeddings_table(3))
    GenerationActor(plain, plan, preset("pocket"))(unit_table([0]))
    assert plain.read_folder("images", IMAGES)["details"].to_pylist() == [None] * 3


def test_a_prompt_that_speaks_of_a_gpu_is_refused_and_ends_no_run(run_store):
    plan = small_plan("infinite_id", ["a {subject}", "CUDA error " * 60])
    GenerationActor(run_store, plan, preset("pocket"), threads=2)(unit_table([0]))
    assert run_store.read_folder("images", IMAGES).num_rows == 3
    rejects = run_store.read_folder("rejects", REJECTS).to_pylist()
    assert [row["reason"] for row in rejects] == ["refused"] * 3
    assert all("CUDA" in row["message"] for row in rejects)


@dataclass(frozen=True)
class Limited:
    """A batch of more than `most` requests raises."""

    most: int
    error: Callable[[], Exception]


def limited(spec: MethodSpec, *_) -> TimedGenerator:
    class LimitedGenerator(TimedGenerator):
        def generate(self, requests, identities, **hooks):
            if len(requests) > spec.config.most:
                raise spec.config.error()
            return super().generate(requests, identities, **hooks)

    return LimitedGenerator()


def _generate(monkeypatch, store, most: int, error: Callable[[], Exception]) -> None:
    """One unit of six requests on a device that does for `most` of them."""
    spec = MethodSpec(f"{__name__}:limited", "", Limited(most, error), needs_base=False)
    monkeypatch.setitem(METHODS, "limited", spec)
    GenerationActor(store, small_plan("limited", ["a", "b"]), preset("pocket"))(unit_table([0]))


def _out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_batch_too_large_for_the_gpu_is_halved(run_store, monkeypatch):
    _generate(monkeypatch, run_store, 2, _out_of_memory)
    assert run_store.read_folder("images", IMAGES).num_rows == 6
    assert run_store.read_folder("rejects", REJECTS).num_rows == 0


@pytest.mark.parametrize(
    ("most", "error"),
    [
        (0, _out_of_memory),
        (5, lambda: RuntimeError("CUDA error: an illegal memory access was encountered")),
        (5, lambda: RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")),
        (5, lambda: torch.AcceleratorError("unspecified launch failure")),
        (5, lambda: MemoryError("no host memory")),
    ],
)
def test_a_gpu_that_does_not_work_ends_the_run(run_store, monkeypatch, most, error):
    with pytest.raises(type(error()), match=str(error())):
        _generate(monkeypatch, run_store, most, error)
    assert committed_units(run_store, "images") == set()
    assert run_store.read_folder("rejects", REJECTS).num_rows == 0


def test_no_torch_is_loaded_to_tell_errors_apart():
    told = "import sys, pipelines.run.failures as a; print(a.is_fatal(RuntimeError(), alone=True), "
    done = subprocess.run(
        [sys.executable, "-c", told + "'torch' in sys.modules)"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False"]


def test_look_ups_keep_few_files_in_memory(run_store):
    table = embeddings_table(6, seed=1)
    for part in range(6):
        run_store.write_table(f"embeddings/part-{part:09d}.parquet", table.slice(part, 1))
    people = IdentityStore(run_store, most_bytes=2 * table.slice(0, 1).nbytes)
    for number in range(6):
        identity = people.get([f"id{number}"])[f"id{number}"]
        expected = np.asarray(table["face"][number].as_py(), dtype=np.float32)
        assert np.array_equal(identity.embedding.face, expected)
    assert len(people._files) <= 2
    with pytest.raises(ValueError, match="identity 'nobody' has no embedding"):
        people.get(["nobody"])


def test_a_start_reads_no_person_and_a_question_the_file_asked_for(run_store, monkeypatch):
    """Each actor's start read every file of `embeddings`: 125,000 of a million people."""
    count = 40
    table = embeddings_table(count, seed=1)
    for part in range(count):
        run_store.write_table(f"embeddings/part-{part:09d}.parquet", table.slice(part, 1))
    found = run_store.read_folder(
        "embeddings", EMBEDDINGS, ["identity_id", "warning"], name_files=True
    )
    write_index(run_store, found)
    read: list[str] = []
    real = Store.read_table
    monkeypatch.setattr(
        Store, "read_table", lambda self, name, *more: read.append(name) or real(self, name, *more)
    )
    people = IdentityStore(run_store)
    assert read == []
    people.get(["id7", "id3"])
    people.get(["id7"])
    assert read == [
        "manifests/embedded.parquet",
        "embeddings/part-000000007.parquet",
        "embeddings/part-000000003.parquet",
    ]


def test_people_whose_photos_do_not_agree_are_told_and_many_are_counted(run_store):
    rows = [{"identity_id": str(n), "file": "x", "warning": f"photos of {n}"} for n in range(25)]
    rows.append({"identity_id": "fine", "file": "x", "warning": None})
    write_index(run_store, pa.Table.from_pylist(rows))
    notes = people_notes(run_store)
    assert notes[:2] == ["photos of 0", "photos of 1"]
    assert notes[20:] == ["the photos of 5 more people do not agree: embeddings.warning"]


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_pictures_come_back_exactly_and_are_marked(kind):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    data = encode_image(image, kind)
    assert np.array_equal(decode_image(data), image)
    assert AI_GENERATED.encode() in data
    assert AI_GENERATED.encode() not in encode_image(image, kind, generated=False)


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="image format is 'gif', allowed: png, webp, jpeg"):
        encode_image(np.zeros((8, 8, 3), np.uint8), "gif")


def test_a_block_of_several_units_is_refused():
    with pytest.raises(RuntimeError, match=r"stage x got a block of the units \[1, 2\]"):
        unit_of(unit_table([1, 2]), "x")
