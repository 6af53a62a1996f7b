"""One pocket base and two made-up people for all baselines' tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infinite_id.base import load_base
from infinite_id.config import preset
from infinite_id.types import GenerationRequest, Identity, IdentityEmbedding


@pytest.fixture(scope="session")
def base():
    torch.set_num_threads(2)
    return load_base(preset("pocket"))


def person(name: str, seed: int, *, photos: int = 1, word: str = "man") -> Identity:
    rng = np.random.default_rng(seed)
    face = rng.normal(size=128).astype(np.float32)
    return Identity(
        name,
        tuple(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8) for _ in range(photos)),
        IdentityEmbedding(
            face / np.linalg.norm(face),
            rng.normal(size=(65 * photos, 192)).astype(np.float16),
            "test",
        ),
        word,
    )


def request(identity_id: str, method: str = "x", **values) -> GenerationRequest:
    defaults = {
        "sample_id": f"{identity_id}-{values.get('seed', 1)}",
        "prompt": "a man on the beach",
        "negative_prompt": "",
        "style": "raw",
        "seed": 1,
        "height": 64,
        "width": 64,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
    }
    return GenerationRequest(identity_id=identity_id, method=method, **{**defaults, **values})


@pytest.fixture(scope="session")
def people():
    return {"a": person("a", 1), "b": person("b", 2), "two": person("two", 3, photos=2)}
