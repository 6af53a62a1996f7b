"""The Python interface makes the pictures that the main job makes, and its examples run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.tables.pictures import decode_image

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "pipelines" / "data" / "samples"


def run(program: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *program], cwd=folder, capture_output=True, text=True, check=False,
        timeout=270, env=environment,
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_pictures_are_those_of_the_main_job(tmp_path: Path) -> None:
    from infinite_id import InfiniteIDPipeline

    done = run(
        [
            str(ROOT / "jobs" / "benchmark.py"), "--address", "local", "--identities", str(SAMPLES),
            "--methods", "infinite_id", "--steps", "3", "--limit", "6", "--output", "run",
        ],
        tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "run" / "images").to_pylist()
    requests = {
        row["sample_id"]: row for row in pq.read_table(tmp_path / "run" / "requests").to_pylist()
    }
    assert len(rows) == 6
    pipe = InfiniteIDPipeline.from_pretrained("pocket")
    asked = [requests[row["sample_id"]] for row in rows]
    made = pipe(
        [row["prompt"] for row in asked],
        [SAMPLES / f"{row['identity_id']}.png" for row in asked],
        negative_prompt=[row["negative_prompt"] for row in asked],
        guidance_scale=[row["guidance_scale"] for row in asked],
        seed=[row["seed"] for row in asked],
        num_inference_steps=3,
    )
    assert made.prompts == [row["prompt"] for row in asked]
    for row, image in zip(rows, made.images, strict=True):
        expected = decode_image(row["image"]).astype(int)
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 2


def test_the_script_for_own_photos(tmp_path: Path) -> None:
    photos = [str(ROOT / "tests" / "assets" / f"person0_{n}.png") for n in range(2)]
    done = run([str(ROOT / "examples" / "own_photos.py"), *photos, "--steps", "2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 pictures in pictures" in done.stdout
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 6
    refused = run([str(ROOT / "examples" / "own_photos.py"), "nobody.jpg"], tmp_path)
    assert refused.returncode == 2
    assert "photo 'nobody.jpg' cannot be read: No such file or directory" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """Its cells in order, in one process and in another folder; no kernel is needed for that."""
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text("utf-8"))
    assert notebook["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 4
    (tmp_path / "cells.py").write_text("\n".join(cells) + "\nassert len(made.images) == 3\n")
    done = run(["cells.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()
