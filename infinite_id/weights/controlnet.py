"""A ControlNet, loaded beside the base that it fits."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel

from infinite_id.config import Preset
from infinite_id.model_files.controlnets import check_controlnet, controlnet_files
from infinite_id.model_files.files import model_digest

__all__ = ["load_controlnet"]


def load_controlnet(preset: Preset, unet: Any, dtype: torch.dtype) -> tuple[ControlNetModel, str]:
    """The preset's ControlNet on the CPU, and 12 hex digits of its content.

    Args:
        preset: names it.
        unet: that it is to add to.
        dtype: of the weights.

    Raises:
        ValueError: it cannot be loaded, or does not fit.
    """
    files, variant = controlnet_files(preset)
    check_controlnet(files.address, files.json("config.json"), unet.config)
    try:
        made = ControlNetModel.from_pretrained(
            files.address if files.folder is None else files.folder,
            revision=preset.controlnet_revision,
            variant=variant,
            dtype=dtype,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"controlnet {files.address} cannot be loaded: {reason}") from error
    return made.eval(), model_digest(files, ("",), variant)
