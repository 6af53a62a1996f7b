"""`infinite-id check` at SDXL's real sizes: from names and headers, with nothing loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from benchmarks.real_size_adapters import AdapterSizes, write_adapter
from benchmarks.real_size_files import write_sdxl_base, write_vit_h
from jobs.check import check
from pipelines.plan.memory import actor_memory
from pipelines.settings import load_config


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A path is a path, whatever stands in it.
    folder = tmp_path_factory.mktemp("models") / "b[1] p%20q #?~*a::b"
    folder.mkdir()
    unet = write_sdxl_base(folder / "base")
    write_vit_h(folder / "clip")
    write_adapter(folder / "plus_face.safetensors", unet)
    return folder


def settings(files: Path, path: Path, **values: object) -> str:
    given = {
        "preset": "sdxl_plus_face_open",
        "base": str(files / "base"),
        "clip": str(files / "clip"),
        "adapter": str(files / "plus_face.safetensors"),
        "output": str(path / "run"),
        "tracking_uri": "none",
        "methods": ["infinite_id", "ip_adapter", "text_only"],
        "resources": {"cluster_gpus": 1, "cluster_cpus": 8},
        **values,
    }
    file = path / "run.yaml"
    file.write_text(json.dumps(given))
    return str(file)


def test_a_right_configuration_has_no_fault(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(settings(files, tmp_path), images_per_second=0.5)
    shown = capsys.readouterr().out
    assert "no fault was found" in shown
    assert "kept K and V" not in shown
    assert "of the UNet 2,567,463,684" in shown
    assert "K' and V' of 1 photos each 0.78, VAE 12.9" in shown
    assert "licence: Apache-2.0" not in shown  # a file of the user's own: its licence is unknown
    assert "pictures:    840" in shown
    assert not (tmp_path / "run").exists()


def test_memory_of_what_is_kept_between_steps_is_counted(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(settings(files, tmp_path, text_every=2, batch_size=8))
    # SDXL at 1024 px: 10 layers of 64 x 64 x 640 and 60 of 32 x 32 x 1280, keys and values in two
    # bytes, of 8 texts with and without guidance.
    kept = 8 * 2 * 2 * 2 * (10 * 64 * 64 * 640 + 60 * 32 * 32 * 1280) / 1e9
    assert f"kept K and V of the texts at most {kept:.1f}, VAE" in capsys.readouterr().out


def test_all_faults_are_told_at_once(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.csv").write_text(f"prompt_id,text\nlong,{'word ' * 200}\n")
    narrow = tmp_path / "clip"
    narrow.mkdir()
    (narrow / "config.json").write_text(json.dumps({"hidden_size": 1024}))
    file = settings(
        files,
        tmp_path,
        clip=str(narrow),
        methods=["infinite_id", "photomaker"],
        prompts=str(tmp_path / "prompts.csv"),
        output="/proc/nowhere",
        tracking_uri="http://127.0.0.1:9",
        resources={"cluster_gpus": 1, "generation_actors": 4, "cluster_cpus": 8},
    )
    with pytest.raises(typer.Exit) as ended:
        check(file)
    assert ended.value.exit_code == 2
    shown = capsys.readouterr().out
    for part in (
        "'PhotoMaker' has no trained weights",
        "is 1024 wide, allowed: 1280",
        "tokens, allowed:",
        "cannot write /proc/nowhere",
        "http://127.0.0.1:9 does not answer",
        "the stages ask for 4 GPUs",
    ):
        assert f"{part}" in shown
    assert "6 faults: nothing was started" in shown


def test_an_adapter_for_another_width_names_the_key(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = write_sdxl_base(tmp_path / "other")
    path = tmp_path / "narrow.safetensors"
    write_adapter(path, unet, sizes=AdapterSizes(width=768))
    with pytest.raises(typer.Exit):
        check(settings(files, tmp_path, adapter=str(path), methods=["infinite_id"]))
    shown = capsys.readouterr().out
    assert "fault: adapter" in shown
    assert "narrow.safetensors" in shown
    assert "1 faults" in shown


def test_memory_of_four_photos_each() -> None:
    family = load_config(None, preset="sdxl").family()
    # SDXL: 10 cross-attention layers of 640 channels, 60 of 1280.
    widths = [640] * 10 + [1280] * 60
    one = actor_memory(family, parameters=[10**9], widths=widths, batch=8)
    four = actor_memory(family, parameters=[10**9], widths=widths, batch=8, photos=4)
    assert (round(one.identities, 2), round(four.identities, 1)) == (0.78, 3.1)
    assert (one.weights, round(one.decode, 1)) == (2.0, 12.9)
