from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from infinite_id.base import BaseModel
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.weights.adapter_file import AdapterMetadata, load_adapter, save_adapter
from infinite_id.weights.places import is_public_adapter, local_file
from tests.infinite_id.tiny import ADAPTER

METADATA = AdapterMetadata("tiny@1", "sface+clip", 42, text_active=True)


@pytest.fixture
def saved(tmp_path: Path, adapter: IdentityAdapter) -> Path:
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapter, METADATA)
    return path


def test_round_trip(saved: Path, base: BaseModel, adapter: IdentityAdapter) -> None:
    loaded, metadata = load_adapter(saved, ADAPTER, base.unet)
    assert replace(metadata, revision="") == METADATA
    assert metadata.revision.startswith("adapter-")
    expected = adapter.state_dict()
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=0, rtol=0)


def test_keys_are_module_names_and_the_header_tells_all(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        header, keys = file.metadata(), set(file.keys())
    assert "projector.face.mlp.0.weight" in keys
    assert any(key.startswith("image.to_k.down_blocks/1/attentions/0/") for key in keys)
    wanted = {"base": "tiny@1", "encoders": "sface+clip", "step": "42", "format_version": "1"}
    assert wanted.items() <= header.items()
    assert not is_public_adapter(saved)


def test_half_precision_files_load(tmp_path: Path, base: BaseModel) -> None:
    torch.manual_seed(0)
    half = IdentityAdapter(ADAPTER, base.unet).half()
    save_adapter(tmp_path / "half.safetensors", half, METADATA)
    loaded, _ = load_adapter(tmp_path / "half.safetensors", ADAPTER, base.unet)
    assert loaded.dtype == torch.float32


Edit = Callable[[dict[str, Any], dict[str, str]], Any]
KEY = "projector.face.norm.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors, _: tensors.pop(KEY), f"lacks key '{KEY}'"),
        (lambda tensors, _: tensors.update(extra=torch.zeros(1)), "surplus key 'extra'"),
        (
            lambda tensors, _: tensors.update({KEY: torch.zeros(3)}),
            rf"'{KEY}' has the shape \(3,\), the base model needs \(64,\)",
        ),
        (lambda _, header: header.update(format_version="9"), "format version 9, allowed: 1"),
        (lambda _, header: header.pop("format"), "is no Infinite-ID adapter"),
        (lambda _, header: header.update(face_width="512"), "face_width 512, the preset has 16"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(
    saved: Path, base: BaseModel, edit: Edit, message: str
) -> None:
    tensors = load_file(saved)
    with safe_open(saved, framework="pt") as file:
        header = file.metadata()
    edit(tensors, header)
    save_file(tensors, saved, metadata=header)
    with pytest.raises(ValueError, match=message):
        load_adapter(saved, ADAPTER, base.unet)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"base": "tiny@2"}, "trained with base tiny@1, allowed: tiny@2"),
        ({"encoders": "arcface+clip"}, r"encoders sface\+clip, allowed: arcface\+clip"),
    ],
)
def test_another_base_or_encoder_is_refused(
    saved: Path, base: BaseModel, wanted: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_adapter(saved, ADAPTER, base.unet, **wanted)


def test_no_such_file(tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(ValueError, match=r"missing.safetensors cannot be read"):
        load_adapter(tmp_path / "missing.safetensors", ADAPTER, base.unet)


@pytest.mark.parametrize("address", ["hub://owner/name/file.bin", "hub://owner@main/file"])
def test_addresses_of_another_form(address: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: hub://OWNER/NAME@REVISION/FILE"):
        local_file(address)


def test_a_hub_file_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    revision = "0" * 40
    folder = tmp_path / "models--owner--name" / "snapshots" / revision / "sub"
    folder.mkdir(parents=True)
    (folder / "file.bin").write_bytes(b"weights")
    from huggingface_hub import hf_hub_download

    expected = hf_hub_download("owner/name", "sub/file.bin", revision=revision, cache_dir=tmp_path)
    assert Path(expected).read_bytes() == b"weights"
    with pytest.raises(ValueError, match=r"weights at hub://owner/name@main/other.bin cannot be"):
        local_file("hub://owner/name@main/other.bin")
