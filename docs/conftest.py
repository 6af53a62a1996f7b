"""Photos by the names that the pages use: those of the sample people."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "infinite_id/assets/samples"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ada-1.jpg, ada-2.jpg, ada.jpg, bob.jpg, group.jpg, scene.png and its mask.png,
    as the current one."""
    from PIL import Image

    for name, number in (("ada-1", 1), ("ada-2", 1), ("ada", 1), ("bob", 2)):
        shutil.copy(SAMPLES / f"person-{number}.png", tmp_path / f"{name}.jpg")
    group = _side_by_side([SAMPLES / f"person-{number}.png" for number in (1, 2, 3)])
    group.save(tmp_path / "group.jpg", format="PNG")
    scene = Image.open(SAMPLES / "person-3.png").convert("RGB")
    scene.save(tmp_path / "scene.png")
    mask = Image.new("L", scene.size)
    mask.paste(255, (0, 0, scene.width // 2, scene.height))
    mask.save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _side_by_side(paths: list[Path]):
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in paths]
    width = sum(picture.width for picture in pictures)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row
