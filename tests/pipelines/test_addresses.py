"""Addresses of photos: whatever their scheme, they are read or are one sentence that names them."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from eval.places import StorageError
from pipelines.tables.addresses import read_uri
from pipelines.tables.photo_digests import photo_digests
from pipelines.tables.schemas import IDENTITIES


@pytest.mark.parametrize("scheme", sorted(fsspec.available_protocols()))
def test_a_bad_address_of_each_scheme_is_one_sentence(scheme):
    uri = f"{scheme}://h.invalid/x.jpg"
    with pytest.raises(StorageError) as caught:
        read_uri(uri)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["zip://a.png::b.zip", "nope://x", "data:nothing", "data:image/png;base64,%%%", "::"]
)
def test_other_bad_addresses(uri):
    with pytest.raises(StorageError, match=r"address|cannot read"):
        read_uri(uri)


def test_file_addresses_have_percent_signs_and_paths_do_not(tmp_path):
    (tmp_path / "a b#1.jpg").write_bytes(b"1")
    (tmp_path / "a%20b.jpg").write_bytes(b"2")
    assert read_uri((tmp_path / "a b#1.jpg").as_uri()) == b"1"
    assert read_uri(f"file://localhost{tmp_path}/a%20b%231.jpg") == b"1"
    assert read_uri(str(tmp_path / "a%20b.jpg")) == b"2"
    with pytest.raises(StorageError, match=r"file://x\.jpg.* allowed: file:///PATH"):
        read_uri("file://x.jpg")


@pytest.mark.parametrize(
    ("uri", "data"),
    [("data:image/png;base64,cG5n", b"png"), ("data:,a%20b", b"a b"), ("data:;base64,", b"")],
)
def test_data_addresses(uri, data):
    assert read_uri(uri) == data


def test_a_long_data_address_is_not_told_whole():
    with pytest.raises(StorageError) as caught:
        read_uri("data:image/png;base64," + "!" * 10_000)
    assert len(str(caught.value)) < 400


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_not_read(tmp_path, kind):
    path = tmp_path / "x.jpg"
    os.mkfifo(tmp_path / "pipe")
    target = {"device": Path("/dev/zero")}.get(kind, tmp_path / "pipe")
    path.symlink_to(target)
    with pytest.raises(StorageError, match=r"x\.jpg: it is no regular file"):
        read_uri(str(path))
    row = {"identity_id": "a", "photos": [{"uri": str(path), "bytes": None}]}
    found = photo_digests(pa.Table.from_pylist([row], schema=IDENTITIES))
    assert found["digest"].to_pylist() == [None]
