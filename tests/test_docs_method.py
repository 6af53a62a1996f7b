"""The example of docs/method.md runs as it stands there."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "method.md"


def test_the_example_makes_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = find_spec("insightface")
    assert package is not None
    assert package.origin is not None
    data = (Path(package.origin).parent / "data/images/Tom_Hanks_54745.png").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(code.replace("num_inference_steps=30", "num_inference_steps=2"), names)  # noqa: S102
    assert names["picture"].image.shape == (64, 64, 3)
