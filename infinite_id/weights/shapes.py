"""Weights checked by names and shapes, without reading one of them."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from infinite_id.config import Preset
from infinite_id.model_files.bases import base_files
from infinite_id.model_files.files import BASE_PARTS, model_digest, weight_files
from infinite_id.model_files.headers import read_header, shapes_of
from infinite_id.pocket.weights import POCKET_DIR, UNET
from infinite_id.weights.adapter_file import load_adapter
from infinite_id.weights.places import file_here, is_public_adapter
from infinite_id.weights.public_adapters import load_public_adapter

__all__ = ["adapter_parameters", "base_unet"]


def base_unet(preset: Preset) -> UNet2DConditionModel:
    """The UNet of a preset's base without memory (on torch's device "meta"); where its files lie
    here, their names and shapes are compared with it.

    Raises:
        ValueError: a missing or surplus key, or another shape; names file and key.
    """
    if preset.base == "pocket":
        with torch.device("meta"):
            return UNet2DConditionModel(**UNET)
    files, variant = base_files(preset)
    with torch.device("meta"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(
            files.json("unet/config.json")
        )
    if files.folder is None:
        return unet
    found: dict[str, tuple[int, ...]] = {}
    for name in weight_files(files, "unet", variant):
        found |= shapes_of(read_header(files.folder / name))
    own = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    for word, keys in (("lacks", own.keys() - found.keys()), ("has", found.keys() - own.keys())):
        if keys:
            raise ValueError(
                f"base {preset.base}, unet {word} key {min(keys)!r} ({len(keys)} such keys) "
                f"{'that its' if word == 'lacks' else 'that no'} config.json asks for"
            )
    for name, shape in own.items():
        if found[name] != shape:
            raise ValueError(
                f"base {preset.base}, unet, key {name!r} has the shape {found[name]}, its "
                f"config.json says {shape}"
            )
    return unet


def adapter_parameters(address: str, preset: Preset, unet: UNet2DConditionModel) -> int | None:
    """Parameters of adapter weights, after they were found to fit. Nothing is downloaded: of a
    file at hub:// the header is read there.

    Args:
        address: of the file.
        preset: model family.
        unet: of `base_unet`.

    Returns:
        None: a pickle at hub:// that is not on this machine. It tells nothing before it is here.

    Raises:
        ValueError: they do not fit; as of loading them.
    """
    encoders = preset.encoders
    here = file_here(address)
    if here is None and not address.endswith(".safetensors"):
        return None
    path = here or address
    with torch.device("meta"):
        if is_public_adapter(path):
            adapter: torch.nn.Module = load_public_adapter(
                path,
                unet,
                face_width=encoders.face_width,
                clip_width=encoders.clip_width,
                clip_tokens=encoders.clip_tokens,
                shapes_only=True,
            )
        else:
            wanted = None
            if preset.base != "pocket":
                files, variant = base_files(preset)
                wanted = f"sdxl-{model_digest(files, BASE_PARTS, variant)}"
            # What is shipped with its base fits it.
            shipped = here is not None and here.is_relative_to(POCKET_DIR)
            names = None if shipped else f"{encoders.faces}+{encoders.clip}"
            adapter, _ = load_adapter(
                path, preset.adapter, unet, base=wanted, encoders=names, shapes_only=True
            )
    return sum(parameter.numel() for parameter in adapter.parameters())
