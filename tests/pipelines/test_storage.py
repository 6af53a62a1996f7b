"""Stores: whole files or none, on a disk and in memory, and clear words when a place fails."""

from __future__ import annotations

import os
import pickle

import pyarrow as pa
import pytest

from eval.places import StorageError
from pipelines.tables.addresses import read_uri
from pipelines.tables.storage import Store


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    if request.param == "disk":
        return Store(tmp_path / "run")
    return Store(f"memory://{tmp_path.name}/run")


def test_bytes_and_tables_come_back(store):
    store.write_bytes("a/b.bin", b"x")
    store.write_bytes("a/b.bin", b"y")
    assert store.read_bytes("a/b.bin") == b"y"
    table = pa.table({"n": [1, 2]})
    store.write_table("t/part-0.parquet", table)
    store.write_table("t/part-1.parquet", table)
    assert store.names("t", ".parquet") == ["part-0.parquet", "part-1.parquet"]
    assert store.read_folder("t", table.schema)["n"].to_pylist() == [1, 2, 1, 2]
    assert store.count_rows("t") == 4
    assert store.read_folder("none", table.schema).num_rows == 0


def test_a_store_survives_pickling(store):
    store.write_bytes("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read_bytes("a") == b"1"  # noqa: S301


def test_unfinished_files_are_not_listed(tmp_path):
    store = Store(tmp_path)
    store.write_bytes("t/part-0.parquet", b"")
    (tmp_path / "t" / ".writing-part-1.parquet").write_bytes(b"torn")
    assert store.names("t", ".parquet") == ["part-0.parquet"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write_bytes("a", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*/a: No space left on device"):
        store.write_bytes("a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_unwritable_and_unknown_places_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"cannot write .*Not a directory|File exists"):
        Store(tmp_path / "file" / "run").check_writable()
    with pytest.raises(StorageError, match="no address that fsspec knows"):
        Store("nowhere://bucket/run")
    with pytest.raises(StorageError, match=r"cannot read .*/none.jpg: No such file"):
        read_uri(str(tmp_path / "none.jpg"))
