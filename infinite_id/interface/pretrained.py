"""Which base, adapter and encoders belong together, of what a caller names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionXLPipeline

from infinite_id.base import BaseModel
from infinite_id.config import (
    PRESETS,
    AdapterConfig,
    EncoderConfig,
    FusionConfig,
    Preset,
    SamplerConfig,
    preset,
)
from infinite_id.methods import METHODS
from infinite_id.types import Generator
from infinite_id.weights.adapter_file import adapter_config
from infinite_id.weights.places import is_public_adapter, local_file
from infinite_id.weights.single_file import is_single_file

__all__ = ["check_addressed", "check_name", "check_pipe", "check_trained", "configured", "fitted"]

_PUBLIC_ENCODERS = "sdxl_plus_face"


def configured(
    family: Preset,
    adapter: str | Path | None,
    encoders: str | EncoderConfig | None,
    weights: Mapping[str, str | Path] | None,
    sampler: SamplerConfig | None,
    fusion: FusionConfig | None,
) -> Preset:
    """`family` with what the caller names in the place of its own.

    Raises:
        ValueError: an adapter that cannot be had, or an unknown name.
    """
    named = PRESETS.get(str(adapter))
    if named is not None:
        if named.adapter_path is None:
            have = ", ".join(name for name, one in PRESETS.items() if one.adapter_path)
            raise ValueError(f"adapter is {adapter!r}, which has no file, allowed: {have}, a file")
        family = replace(family, adapter_path=named.adapter_path, encoders=named.encoders)
    elif adapter is not None:
        path = local_file(adapter)
        if not path.is_file():
            raise ValueError(
                f"adapter is {str(adapter)!r}, allowed: a file, hub://OWNER/NAME@REVISION/FILE, or "
                f"a preset: {', '.join(PRESETS)}"
            )
        family = replace(family, adapter_path=str(path))
        if is_public_adapter(path):
            family = replace(family, encoders=PRESETS[_PUBLIC_ENCODERS].encoders)
    if family.adapter_path is None and family.base != "pocket" and not weights:
        raise ValueError(
            f"adapter is None, allowed with base {family.base}: "
            f"{', '.join(name for name, one in PRESETS.items() if one.adapter_path)}, a file, or "
            "hub://OWNER/NAME@REVISION/FILE"
        )
    if isinstance(encoders, str):
        if encoders not in PRESETS:
            raise ValueError(f"encoders is {encoders!r}, allowed: {', '.join(PRESETS)}")
        encoders = preset(encoders).encoders
    known_weights = sorted({one for method in METHODS.values() for one in method.weights})
    for name in weights or ():
        if name not in known_weights:
            raise ValueError(f"weights has {name!r}, allowed: {', '.join(known_weights)}")
    kinds = {"encoders": EncoderConfig, "sampler": SamplerConfig, "fusion": FusionConfig}
    for (name, kind), value in zip(kinds.items(), (encoders, sampler, fusion), strict=True):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name} is a {type(value).__name__}, allowed: {kind.__name__}")
    return replace(
        family,
        encoders=encoders or family.encoders,
        weights=tuple((name, str(path)) for name, path in weights.items())
        if weights
        else family.weights,
        sampler=sampler or family.sampler,
        fusion=fusion or family.fusion,
        # `check_trained` refuses them, in the words of this interface.
        allow_untrained=True,
    )


def fitted(family: Preset, base: BaseModel) -> Preset:
    """`family` with the adapter's shapes: those of its file, or of encoders and base."""
    if family.base == "pocket" and family.adapter_path is None:
        return family
    path = None if family.adapter_path is None else local_file(family.adapter_path)
    if path is not None and not is_public_adapter(path):
        return replace(family, adapter=adapter_config(path))
    encoders = family.encoders
    width = int(base.unet.config.cross_attention_dim)
    shapes = AdapterConfig(encoders.face_width, encoders.clip_width, cross_attention_dim=width)
    return replace(family, adapter=shapes)


def check_trained(made: Generator, method: str, family: Preset) -> None:
    """Raises a ValueError where a method would run on random weights."""
    if "untrained" in made.revision:
        name = (*METHODS[method].weights, method)[0]
        wanted = "adapter" if name == "infinite_id" else f"weights={{{name!r}: FILE}}"
        raise ValueError(
            f"method {method!r} has no trained weights for base {family.base}, allowed: {wanted} "
            "of from_pretrained or from_pipe"
        )


def check_name(name: str | Path) -> None:
    """Raises a ValueError for what is no preset and can be no address of a base."""
    if str(name) in PRESETS or is_single_file(name) or Path(name).expanduser().exists():
        return
    if len(Path(name).parts) < 2:
        raise ValueError(
            f"name is {str(name)!r}, allowed: a preset ({', '.join(PRESETS)}), a folder, "
            "OWNER/NAME of a hub, or a .safetensors file"
        )


def check_addressed(base: str, *, revision: Any, variant: Any, config: Any) -> None:
    """Raises a ValueError for an argument that a base of this kind has not."""
    if base == "pocket":
        kind, given = "pocket", {"revision": revision, "variant": variant, "config": config}
    elif is_single_file(base):
        kind, given = "a checkpoint in one file", {"revision": revision, "variant": variant}
    else:
        kind, given = "a folder or a hub id", {"config": config}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is {value!r}, allowed with {kind}: None")


def check_pipe(pipe: Any) -> None:
    """Raises a ValueError unless `pipe` can be used and left as it is."""
    if not isinstance(pipe, StableDiffusionXLPipeline):
        raise ValueError(f"pipe is a {type(pipe).__name__}, allowed: StableDiffusionXLPipeline")
    if pipe.unet.config.get("encoder_hid_dim_type") is not None:
        raise ValueError(
            "pipe has an IP-Adapter loaded, allowed: without one (pipe.unload_ip_adapter())"
        )
    for name, part in pipe.components.items():
        if hasattr(part, "_hf_hook"):
            raise ValueError(
                f"pipe offloads its {name}, allowed: without offloading "
                "(pipe.remove_all_hooks(), then enable_model_cpu_offload() of InfiniteIDPipeline)"
            )
