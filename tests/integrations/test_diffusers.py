"""The community pipeline, loaded by diffusers from its file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline

from infinite_id import InfiniteIDPipeline
from tests.infinite_id.test_python_interface import ADA, BOB
from tests.infinite_id.tiny import tiny_pipeline, write_pocket_adapter

FILE = Path(__file__).parents[2] / "integrations" / "diffusers" / "infinite_id_sdxl.py"
SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "np"}


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        "diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr("sys.path", [*sys.path])
    tiny_pipeline().save_pretrained(tmp_path / "base")
    made = DiffusionPipeline.from_pretrained(
        tmp_path / "base", custom_pipeline=str(FILE), trust_remote_code=True
    )
    made.set_progress_bar_config(disable=True)
    return made


def plain(pipe: Any) -> Any:
    return pipe("a man", generator=torch.Generator().manual_seed(5), **SIZE).images


def test_it_is_sdxl_until_somebody_is_given(pipe: Any, tmp_path: Path, capfd: Any) -> None:
    assert isinstance(pipe, StableDiffusionXLPipeline)
    expected = plain(tiny_pipeline())
    np.testing.assert_array_equal(plain(pipe), expected)
    with pytest.raises(ValueError, match="identity is given before load_infinite_id, allowed: aft"):
        pipe("a man", identity=ADA)
    adapter = write_pocket_adapter(tmp_path / "adapter.safetensors")
    pipe.load_infinite_id(adapter, encoders="pocket")
    capfd.readouterr()
    found = pipe("a {subject}", identity=[ADA, BOB], seed=5, **SIZE)
    assert capfd.readouterr().err == ""
    own = InfiniteIDPipeline.from_pipe(tiny_pipeline(), adapter=adapter, encoders="pocket")
    own.set_progress_bar_config(disable=True)
    same = own("a {subject}", [ADA, BOB], seed=5, **SIZE)
    np.testing.assert_allclose(found.images, same.images, atol=1 / 255)
    assert np.abs(found.images[0] - found.images[1]).max() > 0.01
    np.testing.assert_array_equal(plain(pipe), expected)
    # Moved by diffusers' own means, the identity's weights come along.
    pipe.to(torch.bfloat16)
    half = pipe("a {subject}", identity=ADA, seed=5, **SIZE).images
    np.testing.assert_allclose(half[0], same.images[0], atol=0.1)


def test_it_is_thin() -> None:
    lines = [line for line in FILE.read_text("utf-8").splitlines() if line.strip()]
    assert len(lines) < 40
