"""One pocket base and two made-up people for all baselines' tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from infinite_id.base import BaseModel
from infinite_id.pocket.model import load_pipeline
from infinite_id.pocket.weights import UNET
from infinite_id.types import GenerationRequest, Identity, IdentityEmbedding


@pytest.fixture(scope="session")
def base():
    """The pocket base with a UNet of two small blocks: rows and LoRAs do not depend on size."""
    loaded = load_pipeline()
    blocks = {"down_block_types": UNET["down_block_types"][:2]}
    blocks |= {"up_block_types": UNET["up_block_types"][:2]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            **{**UNET, **blocks, "block_out_channels": (32, 64), "attention_head_dim": (2, 4)}
        )
    parts = {**loaded.components, "unet": unet.eval()}
    pipeline = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return BaseModel(pipeline, "small-test-base")


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
        "height": 32,
        "width": 32,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
    }
    return GenerationRequest(identity_id=identity_id, method=method, **{**defaults, **values})


@pytest.fixture(scope="session")
def people():
    return {"a": person("a", 1), "b": person("b", 2), "two": person("two", 3, photos=2)}
