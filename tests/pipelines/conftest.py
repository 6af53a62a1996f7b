"""Small real inputs: a run folder with embedded people that need no photo."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from infinite_id.base import load_base
from infinite_id.config import preset
from pipelines.plan.requests import PlanSettings, RequestPlan, Subject, Text
from pipelines.tables.pictures import encode_image
from pipelines.tables.schemas import EMBEDDINGS
from pipelines.tables.storage import Store
from tests.infinite_id.test_control import controlnet_of


def embeddings_table(people: int, seed: int = 0) -> pa.Table:
    """Random unit embeddings in the pocket preset's widths."""
    encoders = preset("pocket").encoders
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(people):
        face = rng.standard_normal(encoders.face_width)
        clip = rng.standard_normal((encoders.clip_tokens, encoders.clip_width)).astype("<f2")
        aligned = rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)
        rows.append(
            {
                "identity_id": f"id{number}",
                "face": (face / np.linalg.norm(face)).tolist(),
                "clip": clip.tobytes(),
                "clip_tokens": clip.shape[0],
                "clip_width": clip.shape[1],
                "revision": "random",
                "digest": f"d{number}",
                "aligned": [encode_image(aligned, generated=False)],
                "class_word": "woman",
                "consent": f"form {number}",
                "licence": "CC0",
                "source": "random numbers",
            }
        )
    return pa.Table.from_pylist(rows, schema=EMBEDDINGS)


@pytest.fixture
def run_store(tmp_path):
    """A run folder with three embedded people."""
    store = Store(tmp_path / "run")
    store.write_table("embeddings/part-000000000.parquet", embeddings_table(3))
    return store


def small_plan(method: str, prompts: list[str], unit_size: int = 6, steps: int = 2) -> RequestPlan:
    """Three people x the prompts, one seed."""
    return RequestPlan(
        methods=[(method, "revision-1")],
        texts=[Text(f"p{i}", "raw", text, "", "") for i, text in enumerate(prompts)],
        subjects=[Subject(f"id{i}", "woman", f"d{i}") for i in range(3)],
        seeds=[0],
        settings=PlanSettings(64, 64, steps, 5.0),
        unit_size=unit_size,
    )


@pytest.fixture(scope="session")
def controlnet_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ControlNet of random weights that fits the pocket base."""
    base = load_base(preset("pocket"))
    halved = int(np.log2(base.vae_factor))
    folder = tmp_path_factory.mktemp("pose")
    controlnet_of(base.unet, (8, 16, 16, 16)[: halved + 1]).save_pretrained(folder)
    return str(folder)
