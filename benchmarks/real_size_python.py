"""`InfiniteIDPipeline` over local folders: one picture, and one line of JSON of what was seen."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from infinite_id import InfiniteIDPipeline
from infinite_id.config import preset

__all__ = ["picture"]


def picture(settings: dict[str, Any]) -> dict[str, Any]:
    """Makes it.

    Args:
        settings: `benchmarks.real_size.model_settings`, and the path of a photo.

    Returns:
        seconds to load and of the picture; how many were made; the dtype of each network.
    """
    begin = time.perf_counter()
    encoders = replace(
        preset(settings["preset"]).encoders,
        faces=settings["faces"],
        clip=settings["clip"],
        clip_revision=None,
    )
    pipe = InfiniteIDPipeline.from_pretrained(
        settings["base"],
        adapter=settings["adapter"],
        encoders=encoders,
        dtype=getattr(torch, settings["dtype"]),
    )
    pipe.set_progress_bar_config(disable=True)
    loaded = time.perf_counter() - begin
    person = pipe.identity(settings["photo"])
    begin = time.perf_counter()
    made = pipe(
        "a {subject} on the beach",
        person,
        height=settings["height"],
        width=settings["width"],
        num_inference_steps=settings["num_inference_steps"],
        seed=0,
    )
    taken = time.perf_counter() - begin
    parts = {name: pipe.base.pipeline.components[name] for name in _NETWORKS}
    networks = parts | {
        "adapter": pipe._generator("infinite_id").adapter,  # type: ignore[attr-defined]
        "clip": pipe._people.encoder.clip.model,
    }
    return {
        "load_seconds": loaded,
        "picture_seconds": taken,
        "pictures": len(made.images),
        **{f"dtype_of_{name}": _dtypes(one) for name, one in networks.items()},
    }


_NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


def _dtypes(network: Any) -> str:
    return ", ".join(
        sorted({str(one.dtype).removeprefix("torch.") for one in network.parameters()})
    )


if __name__ == "__main__":
    print(json.dumps(picture(json.loads(Path(sys.argv[1]).read_text()))))
