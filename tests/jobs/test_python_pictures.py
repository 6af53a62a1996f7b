"""The Python interface makes the pictures that the main job makes, and its examples run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pyarrow.parquet as pq
import pytest

from infinite_id.types import AI_GENERATED
from pipelines.tables.pictures import decode_image
from tests.notebooks import cells, execute, own_folder, printed

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "infinite_id" / "assets" / "samples"


def run(program: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *program], cwd=folder, capture_output=True, text=True, check=False,
        timeout=270, env=environment,
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_pictures_are_those_of_the_main_job(shared_ray, infinite_id, tmp_path: Path) -> None:
    from infinite_id import InfiniteIDPipeline

    done = infinite_id(
        "benchmark", "--identities", SAMPLES, "--methods", "infinite_id", "--steps", "3",
        "--limit", "6", "--metrics", "face_found", "--set", "set_pictures=0",
        "--tracking-uri", "none", "--output", tmp_path / "run",
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
    own_folder(tmp_path)
    photos = [str(ROOT / "tests" / "assets" / f"person0_{n}.png") for n in range(2)]
    done = run([str(ROOT / "examples" / "own_photos.py"), *photos, "--steps", "2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 pictures in pictures" in done.stdout
    made = sorted((tmp_path / "pictures").glob("*.png"))
    assert len(made) == 6
    assert AI_GENERATED.encode() in made[0].read_bytes()
    refused = run([str(ROOT / "examples" / "own_photos.py"), "nobody.jpg"], tmp_path)
    assert refused.returncode == 2
    assert "photo 'nobody.jpg' cannot be read: No such file or directory" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_notebook_runs_in_a_kernel_beside_a_users_own_folders(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    more = cells(
        "quiet = pipe('a {subject}', ada, method='photomaker', num_inference_steps=1)",
        "import eval, pipelines\n[eval.WHOSE, pipelines.WHOSE, len(made.images)]",
    )
    notebook.cells += more.cells
    folder = own_folder(tmp_path / "mine")
    done = execute(notebook, folder, Path(sys.executable), tmp_path / "home")
    assert printed(done) == []
    shown = [one for cell in done.cells for one in cell.get("outputs", []) if "data" in one]
    assert "image/png" in shown[0].data
    assert shown[1].data["text/plain"].startswith("array([")
    assert shown[2].data["text/plain"] == "['mine: eval', 'mine: pipelines', 3]"
