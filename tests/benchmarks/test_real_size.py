"""The road of `python -m benchmarks.run real_size` with small networks, in this process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from diffusers import UNet2DConditionModel
from fastapi.testclient import TestClient

from benchmarks.real_size import model_settings, run_file, write_files
from benchmarks.real_size_adapters import PUBLIC_NAMES, AdapterSizes, adapter_shapes
from benchmarks.real_size_files import SMALL
from benchmarks.real_size_python import picture
from benchmarks.real_size_reckoning import reckoned
from benchmarks.run import load_scenario, main
from benchmarks.without_ray import undisturbed
from infinite_id.training.dry_run import SDXL_UNET
from jobs.check import check
from pipelines.serve import local_app
from pipelines.serving.config import ServiceConfig
from pipelines.settings import load_config

PHOTO = Path(__file__).parents[2] / "infinite_id/assets/samples/person-1.png"
ARGUMENTS: dict[str, Any] = load_scenario("real_size")["arguments"] | {"size": 64}
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2", "adapter")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    write_files(folder, SMALL)
    return folder


def test_check_and_the_main_job_take_local_folders_for_everything(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(files, ARGUMENTS)
    check(file)
    shown = capsys.readouterr().out
    assert "no fault was found" in shown
    assert "people, texts: 2, 1" in shown
    undisturbed(load_config(file), scores=True)
    images = pq.read_table(files / "run_plus_face" / "images").to_pylist()
    assert [row["method"] for row in images].count("infinite_id") == 2
    assert len(images) == len({row["sample_id"] for row in images}) == 4
    assert not list((files / "run_plus_face").glob("rejects/*.parquet"))


def test_the_service_takes_the_same_keys_and_only_the_scores_it_is_told(files: Path) -> None:
    settings = model_settings(files, ARGUMENTS) | {"safety_check": None}
    app = local_app(ServiceConfig(**settings))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        photos = {"photos": ("p.png", PHOTO.read_bytes())}
        person = client.post("/v1/identities", files=photos).json()["identity_id"]
        body = {"identity_id": person, "prompt": "a {subject}", "scores": True, "seed": 1}
        made = client.post("/v1/generate", json=body).json()
    assert list(made["images"][0]["scores"]) == ["face_found"]


@pytest.mark.parametrize("kind", PUBLIC_NAMES)
def test_python_takes_the_same_folders_and_each_public_adapter(files: Path, kind: str) -> None:
    found = picture(model_settings(files, ARGUMENTS, kind) | {"photo": str(PHOTO)})
    assert found["pictures"] == 1
    assert {found[f"dtype_of_{name}"] for name in NETWORKS} == {"bfloat16"}
    assert found["dtype_of_clip"] == "float32"


def test_public_adapters_have_the_real_ones_sizes() -> None:
    """GB as the hub shows them."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    for kind, size in {"plus_face": 0.85, "faceid": 1.07, "faceid_plusv2": 1.49}.items():
        parts = adapter_shapes(kind, unet, AdapterSizes()).values()
        parameters = sum(math.prod(shape) for own in parts for shape in own.values())
        assert round(2 * parameters / 1e9, 2) == size, kind


def test_what_a_row_and_a_picture_cost() -> None:
    found = reckoned(ARGUMENTS)
    # 10 layers of 4,096 tokens and 640 channels, 60 of 1,024 and 1,280.
    layers = [(4096, 640)] * 10 + [(1024, 1280)] * 60
    more = sum(4 * length**2 * width for length, width in layers) / 1e12
    assert found["fusion_tflop_an_identity_row_and_step"] == pytest.approx(more)
    # Of K and V: the text row taken (2), two means (2), the own moved by them (2), both joined (4).
    moved = sum(2 * 10 * 2 * length * width for length, width in layers) / 1e9
    assert found["fusion_gb_an_identity_row_and_step"] == pytest.approx(moved, rel=0.01)
    assert 6.5 < found["unet_tflop_a_row_and_step"] < 7.0
    assert found["card_pictures_per_s_8"] > 1.5 * found["card_pictures_per_s_1"]


def test_unknown_words_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["real_size", "--set", "scale=huge"]) == 2
    assert main(["real_size", "--set", "walk=[run]"]) == 2
    said = capsys.readouterr().err
    assert "scale is 'huge', allowed: real, small" in said
    assert "walk has 'run', allowed: check, benchmark, serve, python, faceid" in said


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_commands_themselves(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    words = ["real_size", "--json", str(file), "--set", "scale=small", "--set", "size=64"]
    assert main(words) == 0
    assert all(one["holds"] is not False for one in json.loads(file.read_text())["verdicts"])
