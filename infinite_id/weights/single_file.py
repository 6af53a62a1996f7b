"""SDXL checkpoints in one file, as people share them: read by diffusers' `from_single_file`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from infinite_id.config import PRESETS
from infinite_id.model_files.headers import read_header, shapes_of
from infinite_id.packages import file_digest

__all__ = ["is_single_file", "load_single_file"]

# One key of each part of the model.
_NEEDED = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "first_stage_model.decoder.conv_in.weight",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
    "conditioner.embedders.1.model.positional_embedding",
)


def is_single_file(address: str | Path) -> bool:
    """Whether an address of a base names one file, and no folder or hub id."""
    return Path(address).suffix.lower() in (".safetensors", ".ckpt")


def load_single_file(
    path: str | Path, *, config: str | Path | None = None, dtype: torch.dtype
) -> tuple[StableDiffusionXLPipeline, str]:
    """(pipeline on the CPU, name of its content) of a checkpoint.

    Args:
        path: a .safetensors file.
        config: folder or hub id of a pipeline in diffusers' layout that has what such a file lacks,
            settings and tokenizers; by default SDXL's own on the hub, pinned.
        dtype: of the weights.

    Raises:
        ValueError: no such file, not SDXL's, not whole, or without its settings; one sentence.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() != ".safetensors":
        raise ValueError(f"checkpoint is {str(path)!r}, allowed: a .safetensors file, no pickle")
    header = read_header(file)
    lacking = next((key for key in _NEEDED if key not in header), None)
    if lacking is not None:
        raise ValueError(
            f"checkpoint {str(path)!r} has no {lacking}, allowed: a whole SDXL checkpoint (UNet, "
            "VAE and both text encoders)"
        )
    channels = shapes_of(header)[_NEEDED[0]][1]
    if channels != 4:
        raise ValueError(
            f"checkpoint {str(path)!r} has a UNet of {channels} input channels, as inpainting "
            "models have, allowed: 4"
        )
    if "v_pred" in header and config is None:
        raise ValueError(
            f"checkpoint {str(path)!r} predicts v, allowed: one that predicts noise, or config of "
            "a pipeline whose scheduler says v_prediction"
        )
    own = PRESETS["sdxl"]
    where: dict[str, Any] = {"config": own.base, "revision": own.base_revision}
    if config is not None:
        where = {"config": str(config)}
    try:
        pipeline = StableDiffusionXLPipeline.from_single_file(
            str(file), dtype=dtype, add_watermarker=False, **where
        )
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"checkpoint {str(path)!r} cannot be loaded with the settings of {where['config']}: "
            f"{reason}"
        ) from error
    noise = {k: v for k, v in pipeline.scheduler.config.items() if not k.startswith("_")}
    told = json.dumps(noise, sort_keys=True, default=str)
    digest = hashlib.sha256(f"{file_digest(file)}\n{told}".encode()).hexdigest()[:12]
    return pipeline, f"sdxl-file-{digest}"
