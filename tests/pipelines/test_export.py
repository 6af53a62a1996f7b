"""Export: every reader that users have reads it back, row for row; whole files or none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from eval.places import StorageError
from infinite_id.config import preset
from pipelines.export.job import export_run
from pipelines.run.lease import Lease
from pipelines.run.units import unit_table
from pipelines.stages.generation import GenerationActor
from pipelines.stages.scoring import ScoringActor
from pipelines.tables.schemas import IMAGES
from pipelines.tables.storage import Store
from tests.pipelines.conftest import embeddings_table, small_plan

ROOT = Path(__file__).parents[2]
TEXTS = ["a {subject}", "two", "three"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three units, made by the real actors without Ray."""
    store = Store(tmp_path_factory.mktemp("export") / "run")
    store.write_table("embeddings/part-000000000.parquet", embeddings_table(3))
    plan = small_plan("timed", TEXTS, unit_size=3)
    generate = GenerationActor(store, plan, preset("pocket"))
    score = ScoringActor(store, plan, ["face_count", "timed"], "pocket")
    for unit in range(plan.units):
        score(generate(unit_table([unit])))
    store.write_bytes("run.json", b'{"digests": {"a": "1"}}')
    return store


@pytest.fixture(scope="module")
def pictures(finished):
    """What the run holds: sample_id -> encoded picture."""
    rows = finished.read_folder("images", IMAGES).to_pylist()
    return {row["sample_id"]: row["image"] for row in rows}


@pytest.fixture(scope="module")
def parquet(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    export_run(finished, Store(folder), partition=["method", "style"], file_bytes=2000)
    return folder


def test_pyarrow_reads_it_with_its_partitions(parquet, pictures):
    table = ds.dataset(parquet, partitioning="hive", exclude_invalid_files=True).to_table()
    columns = (table[name].to_pylist() for name in ("sample_id", "image"))
    assert dict(zip(*columns, strict=True)) == pictures
    assert set(table["method"].to_pylist()) == {"timed"}
    assert table["face_count"].null_count == 0
    assert len(list(parquet.rglob("*.parquet"))) > 1


def test_pandas_reads_it(parquet, pictures):
    import pandas as pd

    frame = pd.concat(pd.read_parquet(path) for path in parquet.rglob("*.parquet"))
    assert dict(zip(frame["sample_id"], frame["image"], strict=True)) == pictures


def test_duckdb_reads_it(parquet, pictures):
    import duckdb

    table = duckdb.read_parquet(f"{parquet}/**/*.parquet", hive_partitioning=True)
    rows = table.filter("method = 'timed'").select("sample_id", "image").fetchall()
    assert dict(rows) == pictures


def test_datasets_reads_it(parquet, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    files = [str(path) for path in sorted(parquet.rglob("*.parquet"))]
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path)
    )
    assert {row["sample_id"]: row["image"] for row in rows} == pictures


def test_webdataset_reads_its_shards(finished, pictures, tmp_path):
    import webdataset

    files = export_run(finished, Store(tmp_path), format="webdataset", file_bytes=2000)
    assert len(files) > 1
    shards = [str(tmp_path / file.name) for file in files]
    rows = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert {row["__key__"]: row["png"] for row in rows} == pictures
    one = json.loads(rows[0]["json"])
    assert one["prompt"] == rows[0]["txt"].decode()
    assert one["timed"] is None


def test_the_list_of_files_has_their_digests_and_a_second_export_is_the_same(
    finished, parquet, tmp_path
):
    record = json.loads((parquet / "_export.json").read_bytes())
    assert record["rows"] == sum(file["rows"] for file in record["files"])
    for file in record["files"]:
        data = (parquet / file["name"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file["sha256"], file["bytes"])
    export_run(finished, Store(tmp_path), partition=["method", "style"], file_bytes=2000)
    assert json.loads((tmp_path / "_export.json").read_bytes()) == record


def test_an_export_that_died_goes_on(finished, parquet, tmp_path):
    class Died(Exception):
        pass

    def die(phase: str, done: int, total: int) -> None:
        if done == 2:
            raise Died

    settings = {"partition": ["method", "style"], "file_bytes": 2000}
    with pytest.raises(Died):
        export_run(finished, Store(tmp_path), progress=die, **settings)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert kept
    assert not (tmp_path / "_export.json").exists()
    export_run(finished, Store(tmp_path), **settings)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (tmp_path / "_export.json").read_bytes() == (parquet / "_export.json").read_bytes()


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_files_end_at_their_written_size(finished, tmp_path, format):
    whole = export_run(finished, Store(tmp_path / "whole"), format=format)[0].bytes
    # The footer, which is written last, is some third of so small a Parquet file.
    wanted = whole // (3 if format == "parquet" else 2)
    files = export_run(finished, Store(tmp_path / "cut"), format=format, file_bytes=wanted)
    # Each but the last is as large as asked for, and no unit (a third) larger than that.
    assert all(wanted <= file.bytes < wanted + whole for file in files[:-1])
    assert sum(file.rows for file in files) == 9
    assert len(files) == 2


def test_what_a_killed_export_left_in_the_middle_of_a_file_is_removed(finished, tmp_path):
    export_run(finished, Store(tmp_path), partition=["method"])
    (tmp_path / "method=timed" / ".writing-0-part-000000.parquet").write_bytes(b"torn")
    export_run(finished, Store(tmp_path), partition=["method"])
    assert list(tmp_path.rglob(".writing-*")) == []
    assert not (tmp_path / "lease.json").exists()


def test_two_exports_do_not_write_to_one_folder(finished, tmp_path):
    with Lease(Store(tmp_path)), pytest.raises(ValueError, match="is being written by process"):
        export_run(finished, Store(tmp_path))


def test_a_file_that_fails_in_the_middle_never_appears(tmp_path):
    store = Store(tmp_path)

    def write() -> None:
        with store.writing("big.bin") as file:
            file.write(b"x" * 1000)
            raise KeyError("stop")

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_a_local_disk_gets_whole_files(finished, pictures):
    store = Store("memory://export")
    files = export_run(finished, store, format="webdataset")
    path = store.path(files[0].name)
    with store.fs.open(path, "rb") as file, tarfile.open(fileobj=file) as tar:
        names = tar.getnames()
    assert {name.split(".")[0] for name in names} == set(pictures)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "zip"}, "format is 'zip', allowed: parquet, webdataset"),
        ({"partition": ["seed"]}, "partition is 'seed', allowed: method, style"),
        ({"file_bytes": 0}, "file size is 0 bytes"),
    ],
)
def test_wrong_settings_are_one_sentence(finished, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        export_run(finished, Store(tmp_path), **settings)


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_run_that_an_earlier_version_began_is_written_whole(finished, tmp_path, format):
    shutil.copytree(finished.root, tmp_path / "run")
    run = Store(tmp_path / "run")
    first = run.names("images", ".parquet")[0]
    old = run.read_table(f"images/{first}").drop_columns(["details", "regions"])
    run.write_table(f"images/{first}", old)
    files = export_run(run, Store(tmp_path / "out"), format=format)
    assert sum(file.rows for file in files) == len(finished.read_folder("images", IMAGES))
    if format == "parquet":
        table = pq.read_table(tmp_path / "out" / files[0].name)
        assert table["regions"].null_count == table.num_rows


def test_another_export_in_the_same_folder_is_refused(finished, parquet):
    with pytest.raises(ValueError, match="holds an export with file_bytes 2000"):
        export_run(finished, Store(parquet), partition=["method", "style"], file_bytes=3000)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no scored picture"):
        export_run(Store(tmp_path / "empty"), Store(tmp_path / "out"))


def test_a_place_that_cannot_be_written_is_one_sentence(finished, tmp_path):
    Path(tmp_path, "file").write_bytes(b"")
    with pytest.raises(ValueError, match="file is a file, allowed: a folder"):
        export_run(finished, Store(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot"):
        export_run(finished, Store(tmp_path / "file" / "below"))


@pytest.mark.timeout(90)
def test_sigterm_ends_the_command_and_the_same_one_goes_on(finished, pictures, tmp_path):
    run, output = tmp_path / "run", tmp_path / "out"
    shutil.copytree(finished.root, run)
    # The command waits in the middle of its work: nobody writes into that pipe.
    last = sorted((run / "images").iterdir())[-1]
    kept = last.rename(tmp_path / "kept")
    os.mkfifo(last)
    command = [sys.executable, "-m", "jobs.cli", "export", str(run), "--output", str(output)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while not (output / "lease.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert (process.returncode, told) == (
        143,
        "terminated; what is written stays, the same command writes the rest\n",
    )
    assert not (output / "lease.json").exists()
    last.unlink()
    kept.rename(last)
    export_run(Store(run), Store(output))
    columns = ds.dataset(output, exclude_invalid_files=True).to_table()
    assert sorted(columns["sample_id"].to_pylist()) == sorted(pictures)
