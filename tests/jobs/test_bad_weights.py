"""Weights that cannot be used, through the commands: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.real_size_adapters import AdapterSizes, write_adapter
from benchmarks.real_size_files import SMALL, write_pack, write_sdxl_base, write_vit_h
from infinite_id.pocket.weights import adapter_path
from jobs import cli
from pipelines.tables.storage import Store
from tests.infinite_id.hub import hub
from tests.jobs.test_bad_input import invoke


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the real names and keys; no weight is ever read, so they are holes."""
    folder = tmp_path_factory.mktemp("whole")
    unet = write_sdxl_base(folder / "base", SMALL)
    write_vit_h(folder / "clip", sizes=SMALL)
    write_adapter(folder / "plus_face.safetensors", unet)
    write_adapter(folder / "narrow.safetensors", unet, sizes=AdapterSizes(width=768))
    write_pack(folder / "pack", SMALL)
    return folder


def named(name: str) -> Callable[[Path], dict[str, Any]]:
    """A base whose pipeline is another one."""

    def fault(folder: Path) -> dict[str, Any]:
        file = folder / "base" / "model_index.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": name}))
        return {}

    return fault


def narrow_adapter(folder: Path) -> dict[str, Any]:
    return {"adapter": str(folder / "narrow.safetensors")}


def narrow_clip(folder: Path) -> dict[str, Any]:
    (folder / "clip" / "config.json").write_text(json.dumps({"hidden_size": 1024}))
    return {}


def broken_header(folder: Path) -> dict[str, Any]:
    (folder / "plus_face.safetensors").write_bytes(b"\xff" * 100)
    return {}


def half_a_file(folder: Path) -> dict[str, Any]:
    with (folder / "base/unet/diffusion_pytorch_model.fp16.safetensors").open("r+b") as stream:
        stream.truncate(1_000_000)
    return {}


def half_asked_as_full(folder: Path) -> dict[str, Any]:
    return {"dtype": "float32"}


FAULTS = {
    "an adapter for another width": (
        narrow_adapter,
        "narrow.safetensors is for texts 768 wide, allowed: 2048",
    ),
    "a CLIP of another width": (narrow_clip, "clip is 1024 wide, allowed: 1280, which the adapter"),
    "fp16 asked as fp32": (half_asked_as_full, "in half precision alone (fp16) and dtype is float"),
    "SD 1.5": (named("StableDiffusionPipeline"), "is a Stable Diffusion 1 or 2 pipeline"),
    "SD 3": (named("StableDiffusion3Pipeline"), "is a Stable Diffusion 3 pipeline"),
    "FLUX": (named("FluxPipeline"), "is a FLUX pipeline"),
    "a broken header": (broken_header, "plus_face.safetensors are no whole safetensors file"),
    "a half-downloaded file": (half_a_file, ": the file is not whole, download it again"),
}


def settings(folder: Path, **values: Any) -> str:
    given = {
        "preset": "sdxl_plus_face_open",
        "base": str(folder / "base"),
        "clip": str(folder / "clip"),
        "adapter": str(folder / "plus_face.safetensors"),
        "output": str(folder / "run"),
        "tracking_uri": "none",
        "resources": {"generation_gpus": 0},
        **values,
    }
    file = folder / "run.yaml"
    file.write_text(json.dumps(given))
    return str(file)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "files", copy_function=_hole)
    return tmp_path / "files"


def _hole(source: str, target: str) -> None:
    """Copies a file; of a large one its first bytes, which hold the header."""
    size = Path(source).stat().st_size
    with Path(source).open("rb") as origin, Path(target).open("wb") as copy:
        copy.write(origin.read(4_000_000))
        copy.truncate(size)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_sentence_of_every_command(
    name: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, sentence = FAULTS[name]
    file = settings(folder, **fault(folder))
    code, said = invoke(capsys, monkeypatch, "benchmark", "--config", file)
    assert (code, said.count("\n"), said.startswith("error: ")) == (2, 1, True), said
    assert sentence in said
    assert not (folder / "run").exists()
    monkeypatch.setattr("sys.argv", ["infinite-id", "check", file])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert " ".join(sentence.split()) in " ".join(capsys.readouterr().out.split())


def told(
    file: str, said: str, commands: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the runs themselves, and by `check`."""
    for command in commands:
        code, sentence = invoke(capsys, monkeypatch, command, "--config", file)
        assert (code, sentence.count("\n")) == (2, 1), sentence
        assert sentence.startswith("error: ")
        assert said in sentence
    monkeypatch.setattr("sys.argv", ["infinite-id", "check", file])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert " ".join(said.split()) in " ".join(capsys.readouterr().out.split())


def test_a_pack_without_a_recogniser_is_refused_before_a_run(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pack" / "w600k_r50.onnx").unlink()
    file = settings(folder, preset="sdxl_plus_face", faces=str(folder / "pack"))
    told(file, "no recognition network", ["benchmark"], capsys, monkeypatch)
    assert not (folder / "run").exists()


def test_an_own_adapter_of_another_width_is_refused_before_a_run(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = adapter_path("infinite_id")
    assert shipped is not None
    with safe_open(shipped, "pt") as opened:
        header = opened.metadata()
    wide = tmp_path / "wide.safetensors"
    other = {"face_width": "512", "encoders": "embedded+pocket"}
    save_file(load_file(shipped), wide, metadata=header | other)
    file = tmp_path / "run.yaml"
    output = str(tmp_path / "run")
    file.write_text(json.dumps({"adapter": str(wide), "output": output}))
    said = "wide.safetensors has face_width 512, the preset has 128"
    told(str(file), said, ["benchmark", "synthesize"], capsys, monkeypatch)
    assert not (tmp_path / "run").exists()


HUB = "hub://owner/adapters@main/"


def test_an_adapter_at_a_hub_is_checked_by_its_header_alone(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"owner/adapters/{name}": folder / name for name in ("narrow.safetensors",)}
    with hub(monkeypatch, tmp_path / "cache", files) as asked:
        file = settings(folder, adapter=f"{HUB}narrow.safetensors")
        said = f"adapter {HUB}narrow.safetensors, key 'image_proj.proj_out.weight' has the shape"
        told(file, said, ["benchmark"], capsys, monkeypatch)
        whole = (folder / "narrow.safetensors").stat().st_size
        # Of some hundred MB, the header, which each of the commands asks for.
        assert 0 < asked.sent < whole / 100
        file = settings(folder, adapter=f"{HUB}other.safetensors")
        told(file, f"weights at {HUB}other.safetensors cannot be had", [], capsys, monkeypatch)
    assert not (tmp_path / "cache").exists()
    assert not (folder / "run").exists()


def test_what_cannot_be_checked_at_a_hub_is_told(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (folder / "faceid.bin").write_bytes(b"a pickle")
    files = {"owner/adapters/faceid.bin": folder / "faceid.bin"}
    with hub(monkeypatch, tmp_path / "cache", files) as asked:
        # Refused for another reason, after it was told.
        file = settings(folder, adapter=f"{HUB}faceid.bin", output="/proc/nowhere")
        code, _ = invoke(capsys, monkeypatch, "benchmark", "--config", file)
        assert code == 2
        said = f"adapter {HUB}faceid.bin is a pickle: its keys and shapes are checked when it is"
        assert said in caplog.text
        monkeypatch.setattr("sys.argv", ["infinite-id", "check", file])
        with pytest.raises(SystemExit):
            cli.main()
        assert said in " ".join(capsys.readouterr().out.split())
        assert asked.sent == 0


def test_a_cache_without_space_is_told(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path / "cache"))
    store = Store(f"memory://{tmp_path.name}/lora.safetensors")
    Store(f"memory://{tmp_path.name}").write_bytes("lora.safetensors", b"12345")
    usage = shutil.disk_usage(tmp_path)._replace(free=3)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    file = settings(folder, base_lora=store.url)
    code, said = invoke(capsys, monkeypatch, "benchmark", "--config", file)
    assert (code, said.count("\n")) == (2, 1), said
    assert "have 5 bytes, the cache" in said
    assert "has 3 free; INFINITE_ID_CACHE names another place" in said
