"""Files of a ControlNet, refused before it is loaded where it does not fit the base. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infinite_id.config import Preset
from infinite_id.model_files.files import ModelFiles, open_model, wanted_variant, weight_files
from infinite_id.model_files.headers import read_header

__all__ = ["check_controlnet", "controlnet_files"]

# What decides the shapes of the features that it adds to, and of what it reads. How many
# transformer layers it has does not: published small ones have none.
_SHAPES = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
_CONDITIONING = ("addition_embed_type", "projection_class_embeddings_input_dim")
_DEFAULTS = {"in_channels": 4, "layers_per_block": 2, "block_out_channels": (320, 640, 1280, 1280)}


def controlnet_files(preset: Preset) -> tuple[ModelFiles, str | None]:
    """The files of a preset's ControlNet and the variant of its weights.

    Raises:
        ValueError: it has none, something is missing, or it is no ControlNet of diffusers'; one
            sentence.
    """
    if preset.controlnet is None:
        raise ValueError("controlnet is None, allowed: a folder or a hub id")

    def check(files: ModelFiles) -> str | None:
        name = files.json("config.json").get("_class_name")
        if name != "ControlNetModel":
            raise ValueError(f"controlnet {files.address} is a {name}, allowed: ControlNetModel")
        # One of them in half precision alone is as good as any: it is converted.
        kinds = files.variants.get("", frozenset())
        half = "fp16" if kinds == {"fp16"} else None
        chosen = half or wanted_variant(files, ("",), preset.dtype, None)
        for file in weight_files(files, "", chosen):
            if files.folder is not None:
                read_header(files.folder / file)
        return chosen

    files = open_model(preset.controlnet, preset.controlnet_revision, check)
    return files, check(files)


def check_controlnet(address: str, own: Mapping[str, Any], unet: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the first setting by which a ControlNet does not fit a UNet.

    Args:
        address: names it in the message.
        own, unet: settings of both, as of their config.json.
    """
    for name in (*_SHAPES, *_CONDITIONING):
        found, wanted = (_plain(one.get(name, _DEFAULTS.get(name))) for one in (own, unet))
        if found != wanted:
            raise ValueError(
                f"controlnet {address} has {name} {found}, allowed: {wanted}, the base's"
            )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
