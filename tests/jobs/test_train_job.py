"""The training job as a user runs it: killed with -9, run again, and it goes on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from infinite_id.config import preset
from infinite_id.pocket.model import build_unet
from infinite_id.weights.adapter_file import load_adapter

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("gan_face_generate", reason="pip install --no-deps gan-face-generate==1.1.1")


def command(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / "train.py"), *options]


def run(*options: str, timeout: float = 240) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*options), capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people with two pictures each, and one picture that is none."""
    from infinite_id.faces.loading import load_face_backend
    from infinite_id.training.faces_gan import draw_people, load_face_generator

    people = draw_people(range(100, 140), 2, load_face_generator(), load_face_backend("embedded"))
    rows = [{"identity_id": "broken", "image": b"no picture"}]
    for person, _ in zip(people, range(5), strict=False):
        for portrait in person.portraits:
            buffer = io.BytesIO()
            Image.fromarray(portrait.image).save(buffer, "PNG")
            rows.append({"identity_id": f"p{person.index}", "image": buffer.getvalue()})
    path = tmp_path_factory.mktemp("photos") / "photos.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


# The longest of all: with the others of Ray one process would have a third more than the rest.
@pytest.mark.xdist_group("ray_training")
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_killed_training_goes_on_from_its_last_checkpoint(photos: Path, tmp_path: Path):
    output = tmp_path / "run"
    stale = output / "pairs" / "part-000099.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of a preparation that was killed")
    options = ["--data", str(photos), "--output", str(output), "--batch-size", "2"]
    options += ["--address", "local", "--set", "checkpoint_steps=2"]
    first = subprocess.Popen(
        command(*options, "--steps", "4000", "--tracking-uri", "none"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    metrics = output / "metrics.jsonl"
    deadline = time.monotonic() + 300
    try:
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= 3):
            assert first.poll() is None, "the training ended by itself"
            assert time.monotonic() < deadline, "the training did not come to its third report"
            time.sleep(0.2)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not stale.exists()
    # Workers of the dead driver may still finish the step they are in.
    time.sleep(5)
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    reached = int(state["step"])
    assert reached >= 4
    # The first run's reports survive it: only what the second adds tells where that one began.
    before = metrics.read_text().splitlines()
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    resumed = run(*options, "--steps", str(reached + 4), "--tracking-uri", tracking, timeout=500)
    assert resumed.returncode == 0, resumed.stderr
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert metrics.read_text().splitlines()[: len(before)] == before
    # A report is written before its checkpoint, so that one of them may be repeated.
    assert steps[len(before) - 1] in (reached, reached + 2)
    assert steps[len(before) :] == [reached + 2, reached + 4]
    assert sorted(set(steps)) == list(range(2, reached + 5, 2))
    assert all(np.isfinite(row["loss"]) for row in rows)
    _, metadata = load_adapter(
        output / "adapter.safetensors", preset("pocket").adapter, build_unet()
    )
    assert metadata.step == reached + 4
    assert not metadata.text_active
    assert json.loads((output / "pairs" / "_done.json").read_text())["rejects/not_an_image"] == 1
    with Image.open(output / "samples" / f"step-{reached + 4:09d}.png") as grid:
        assert grid.size == (4 * 64, 64)
        assert np.asarray(grid).std() > 5
    logged = {path.name for path in (tmp_path / "mlruns").rglob("samples*") if path.is_file()}
    assert any(f"+step+{reached + 4}+" in name for name in logged), logged
    client = mlflow.MlflowClient(tracking)
    experiment = client.get_experiment_by_name("infinite-id-training")
    (found,) = client.search_runs([experiment.experiment_id])
    for name in ("loss", "pictures_per_second"):
        history = client.get_metric_history(found.info.run_id, name)
        assert sorted(metric.step for metric in history) == sorted(set(steps)), name
        assert all(0 < metric.value < np.inf for metric in history), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad.parquet", "bad.parquet has the columns identity_id, picture; image is missing"),
        ("text.parquet", "Parquet magic bytes not found in footer"),
        ("nowhere", "nowhere does not exist"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_before_ray_starts(
    infinite_id, tmp_path: Path, name: str, message: str
):
    pq.write_table(pa.table({"identity_id": ["a"], "picture": [b""]}), tmp_path / "bad.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    # Nothing answers there, which is what would be said if it were asked.
    options = ["--address", "127.0.0.1:9", "--tracking-uri", "none"]
    done = infinite_id("train", "--data", tmp_path / name, "--output", tmp_path / "run", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_sdxl_recipe_is_checked_without_a_weight(infinite_id):
    recipe = ROOT / "jobs" / "configs" / "train_sdxl.yaml"
    done = infinite_id("train", "--config", recipe, "--dry-run")
    assert done.returncode == 0, done.stderr
    # The published UNet of SDXL has just as many parameters.
    assert "2567463684" in done.stdout
    assert "70" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "x", "--set", "rate=3"], "unknown key 'rate'"),
        (["--data", "x", "--set", "steps"], "has no '='"),
        (["--data", "x", "--set", "steps=[8"], "--set steps is '[8', allowed: a value in YAML"),
        (["--data", "x", "--steps", "5", "--set", "steps=0"], "steps is 0: input should be"),
        (["--data", "x", "--set", "path=y"], "unknown key 'path'"),
        ([], "data"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(infinite_id, options: list[str], message: str):
    done = infinite_id("train", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
