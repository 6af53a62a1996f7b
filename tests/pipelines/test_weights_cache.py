"""Weights on other file systems are copied once, whole, and then used from this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eval.places import StorageError
from infinite_id.config import preset
from pipelines.plan.weights import local_preset, local_weights
from pipelines.tables.storage import Store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path / "cache"))
    store = Store(f"memory://{tmp_path.name}/base")
    store.write_bytes("unet/config.json", b"{}")
    store.write_bytes("model_index.json", b"[]")
    return store


def test_a_folder_is_copied_once(folder):
    first = Path(local_weights(folder.url))
    assert (first / "unet" / "config.json").read_bytes() == b"{}"
    assert (first / "model_index.json").read_bytes() == b"[]"
    assert Path(local_weights(folder.url)) == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_a_folder_that_changed_is_another(folder):
    first = Path(local_weights(folder.url))
    folder.write_bytes("model_index.json", b"[1]")
    second = Path(local_weights(folder.url))
    assert second != first
    assert (first / "model_index.json").read_bytes() == b"[]"
    assert (second / "model_index.json").read_bytes() == b"[1]"


def test_a_file_is_copied(folder):
    assert Path(local_weights(f"{folder.url}/model_index.json")).read_bytes() == b"[]"


@pytest.mark.parametrize("address", ["/models/sdxl", "owner/name", "hub://owner/name@main/file"])
def test_paths_and_hub_ids_stay(address):
    assert local_weights(address) == address


def test_a_preset_is_brought_here(folder):
    family = local_preset(preset("pocket"))
    assert family == preset("pocket")


def test_an_address_that_is_not_there_is_named(folder):
    with pytest.raises(StorageError, match="weights memory://nothing/here do not exist"):
        local_weights("memory://nothing/here")


def test_a_path_of_weights_is_a_path_whatever_stands_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b[1]", "p%20q", "a::b", "x#?~*.safetensors"):
        (tmp_path / name).write_bytes(b"x")
        assert local_weights(f"~/{name}") == f"{tmp_path}/{name}"
        assert local_weights(str(tmp_path / name)) == f"{tmp_path}/{name}"
        assert local_weights((tmp_path / name).as_uri()) == f"{tmp_path}/{name}"
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path / "cache"))
    store = Store(f"memory://{tmp_path.name}/b[1] p%20q*")
    store.write_bytes("x[2].bin", b"one")
    store.write_bytes("unet/y*.bin", b"two")
    copied = Path(local_weights(store.url))
    assert (copied / "x[2].bin").read_bytes() == b"one"
    assert (copied / "unet" / "y*.bin").read_bytes() == b"two"
    assert Path(local_weights(f"{store.url}/x[2].bin")).read_bytes() == b"one"
    family = local_preset(replace(preset("pocket"), base="~/b[1]", adapter_path="~/a::b"))
    assert (family.base, family.adapter_path) == (f"{tmp_path}/b[1]", f"{tmp_path}/a::b")
