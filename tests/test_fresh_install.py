"""As a new user: `pip install .` into a new environment, and a notebook in a folder of their own.

The short form, in the environment of the tests, is in tests/jobs/test_python_pictures.py.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from infinite_id.types import AI_GENERATED
from tests.notebooks import cells, execute, own_folder, printed

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "infinite_id" / "assets" / "samples"
EIGHT_LINES = """\
from infinite_id import InfiniteIDPipeline

pipe = InfiniteIDPipeline.from_pretrained("pocket")
ada = pipe.identity(["ada-1.jpg", "ada-2.jpg"])
images = pipe(
    ["a {subject} on the beach", "a {subject} in the snow"], identity=[ada, "bob.jpg"],
    style="comic_book", identity_scale=0.8, guidance_scale=5.0, seed=7,
).images
images[0].save("ada.png")
"""
MORE = """\
made = pipe("a {subject}", ada, method="photomaker", seed=7)
assert made.scores()["face_count"].shape == (1,)
import eval, infinite_id, pipelines
[eval.WHOSE, pipelines.WHOSE, infinite_id.__file__]
"""


def installed(place: Path) -> Path:
    """The Python of a new environment with this project and what a notebook needs."""
    ignored = shutil.ignore_patterns(".*", "build", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, place / "project", ignore=ignored)
    uv = Path(sys.executable).with_name("uv")
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    environment = {**os.environ, "UV_FIND_LINKS": wheels}
    python = place / "venv" / "bin" / "python"
    backend = [] if wheels else ["--torch-backend=auto"]
    install = ["pip", "install", "--quiet", *backend, "--python", str(python), ".", "ipykernel"]
    for command in (["venv", "--quiet", str(place / "venv")], install):
        subprocess.run([uv, *command], cwd=place / "project", env=environment, check=True)
    return python


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_eight_lines_in_a_new_environment(tmp_path: Path) -> None:
    python = installed(tmp_path)
    folder = own_folder(tmp_path / "mine")
    for name, number in (("ada-1", 1), ("ada-2", 1), ("bob", 2)):
        shutil.copy(SAMPLES / f"person-{number}.png", folder / f"{name}.jpg")
    done = execute(cells(EIGHT_LINES, MORE), folder, python, tmp_path / "home")
    assert printed(done) == []
    (answer,) = [one for one in done.cells[1].outputs if "data" in one]
    *whose, ours = ast.literal_eval(answer.data["text/plain"])
    assert whose == ["mine: eval", "mine: pipelines"]
    assert Path(ours).is_relative_to(tmp_path / "venv")
    with Image.open(folder / "ada.png") as picture:
        picture.load()
        assert picture.size == (64, 64)
        assert AI_GENERATED.encode() in picture.info["xmp"]
