"""Sample grids of a training run: what the adapter draws of one person, every so many steps."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinite_id.config import Preset
from infinite_id.types import GenerationRequest, Identity, IdentityEmbedding
from pipelines.tables.storage import Store

__all__ = ["SAMPLES", "SAMPLE_PROMPTS", "sample_grid", "sample_person", "write_samples"]

SAMPLES = "samples"
"""Folder of the run's grids, one `step-NNNNNNNNN.png` each."""

SAMPLE_PROMPTS = (
    "a person wearing a red shirt, in the snow, raw photo",
    "a person wearing a blue shirt, on a beach, raw photo",
    "a person wearing a purple dress, on a beach, sunset, comic book style",
    "a person wearing a green sweater, in a forest, raw photo",
)


def sample_person(store: Store, preset: Preset) -> Identity:
    """The first person of the run's `pairs` whom training does not see, else the first one.

    Raises:
        ValueError: the table holds no pair.
    """
    columns = ["split", "latents", "face", "clip"]
    chosen: dict[str, Any] | None = None
    for table in store.tables("pairs", columns):
        for row in table.to_pylist():
            if row["latents"] is None or (chosen is not None and row["split"] == "train"):
                continue
            chosen = row
            if row["split"] != "train":
                break
        if chosen is not None and chosen["split"] != "train":
            break
    if chosen is None:
        raise ValueError(f"{store.url}/pairs holds no training pair, allowed: one or more")
    clip = np.frombuffer(chosen["clip"], "<f2").reshape(-1, preset.encoders.clip_width)
    face = np.asarray(chosen["face"], np.float32)
    return Identity("person", (), IdentityEmbedding(face, clip, "training"))


def sample_grid(base: Any, adapter: Any, preset: Preset, person: Identity) -> NDArray[np.uint8]:
    """That person in `SAMPLE_PROMPTS` side by side, uint8 (H, W x prompts, 3) RGB.

    The noise is the same in every grid of a run, so that two grids differ by training alone.

    Args:
        base: `infinite_id.base.BaseModel`.
        adapter: `infinite_id.identity.adapter.IdentityAdapter`.
        preset: size, steps and guidance scale.
        person: from `sample_person`.
    """
    from infinite_id.generator import InfiniteIdGenerator

    generator = InfiniteIdGenerator(
        base,
        adapter,
        preset.fusion,
        preset.sampler,
        "training",
        clip_tokens=preset.encoders.clip_tokens,
    )
    requests = [
        GenerationRequest(
            sample_id=f"sample-{number}",
            identity_id=person.identity_id,
            method="infinite_id",
            prompt=prompt,
            negative_prompt="",
            style="",
            seed=number,
            height=preset.height,
            width=preset.width,
            num_inference_steps=preset.sampler.num_inference_steps,
            guidance_scale=preset.sampler.guidance_scale,
        )
        for number, prompt in enumerate(SAMPLE_PROMPTS)
    ]
    made = generator.generate(requests, {person.identity_id: person})
    return np.concatenate([one.image for one in made], axis=1)


def write_samples(store: Store, step: int, grid: NDArray[np.uint8]) -> None:
    """Writes the grid of that step as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, "PNG")
    store.write_bytes(f"{SAMPLES}/step-{step:09d}.png", buffer.getvalue())
