"""Which base, adapter and encoders belong together, of what a caller names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionXLPipeline

from infinite_id.attention.installed import check_attention
from infinite_id.base import BaseModel, load_base
from infinite_id.config import (
    PRESETS,
    AdapterConfig,
    AttentionKind,
    EncoderConfig,
    FusionConfig,
    Preset,
    SamplerConfig,
    preset,
    profiled,
)
from infinite_id.methods import METHODS
from infinite_id.model_files.controlnets import check_controlnet
from infinite_id.types import Generator
from infinite_id.weights.adapter_file import adapter_config
from infinite_id.weights.controlnet import load_controlnet
from infinite_id.weights.places import is_public_adapter, local_file
from infinite_id.weights.single_file import is_single_file

__all__ = ["Given", "check_trained", "loaded", "over"]

_PUBLIC_ENCODERS = "sdxl_plus_face"


@dataclass(frozen=True, slots=True)
class Given:
    """What a caller names in the place of a preset's own, see `InfiniteIDPipeline`."""

    adapter: str | Path | None
    encoders: str | EncoderConfig | None
    weights: Mapping[str, str | Path] | None
    sampler: SamplerConfig | None
    fusion: FusionConfig | None
    attention: AttentionKind
    controlnet: str | Path | ControlNetModel | None = None


def loaded(
    name: str | Path,
    given: Given,
    *,
    dtype: torch.dtype | None,
    variant: str | None,
    revision: str | None,
    config: str | Path | None,
    base_lora: str | Path | None,
    profile: str,
) -> tuple[Preset, BaseModel]:
    """Family and base of a name, on the CPU: see `InfiniteIDPipeline.from_pretrained`.

    Raises:
        ValueError: something cannot be loaded, or does not fit.
    """
    _check_name(name)
    known = str(name) in PRESETS
    family = PRESETS[str(name)] if known else replace(PRESETS["sdxl"], base=str(name))
    if not known:
        family = replace(family, base_revision=None)
    _check_addressed(family.base, revision=revision, variant=variant, config=config)
    if revision is not None:
        family = replace(family, base_revision=revision)
    if base_lora is not None:
        family = replace(family, base_lora=str(base_lora))
    if given.sampler is not None and profile != "full":
        raise ValueError(f"profile is {profile!r} beside a sampler, allowed: one of them")
    family = _configured(profiled(family, profile), given)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}, allowed: torch.float32, torch.bfloat16 ...")
    if dtype is None:
        has_gpu = torch.cuda.is_available()
        dtype = getattr(torch, family.dtype if has_gpu else family.cpu_dtype)
    # On a CPU, from where the caller moves it.
    plain = replace(family, attention="sdpa")
    base = load_base(plain, dtype=dtype, variant=variant, config=config)
    base.set_attention(given.attention)
    if not known:
        # Weights of a fine-tuned base are those of the base that it was made of.
        base.adapters_of = None
    _hold(base, family, given)
    return _fitted(family, base), base


def over(pipe: StableDiffusionXLPipeline, given: Given) -> tuple[Preset, BaseModel]:
    """Family and base of a pipeline: see `InfiniteIDPipeline.from_pipe`.

    Raises:
        ValueError: a pipeline of another kind, or weights that do not fit.
    """
    _check_pipe(pipe)
    side = int(pipe.default_sample_size * pipe.vae_scale_factor)
    family = replace(
        PRESETS["sdxl"],
        base=str(pipe.config.get("_name_or_path") or "the given pipeline"),
        base_revision=None,
        height=side,
        width=side,
        sampler=SamplerConfig("own"),
    )
    family = _configured(family, given)
    base = BaseModel(pipe, f"{family.base}@given", attention=given.attention)
    _hold(base, family, given)
    return _fitted(family, base), base


def _hold(base: BaseModel, family: Preset, given: Given) -> None:
    """Gives the base the ControlNet that it was not loaded with.

    Raises:
        ValueError: it cannot be loaded, or does not fit.
    """
    if isinstance(given.controlnet, ControlNetModel):
        own = given.controlnet
        check_controlnet("given", own.config, base.unet.config)
        base.controlnet, base.controlnet_digest = own, "given"
    elif family.controlnet is not None and base.controlnet is None:
        base.controlnet, base.controlnet_digest = load_controlnet(family, base.unet, base.dtype)
    if base.controlnet is not None:
        base.controlnet.to(base.device, base.dtype)  # type: ignore[arg-type]


def _configured(family: Preset, given: Given) -> Preset:
    """`family` with what the caller names in the place of its own.

    Raises:
        ValueError: an adapter that cannot be had, or an unknown name.
    """
    adapter, encoders, weights = given.adapter, given.encoders, given.weights
    check_attention(given.attention)
    controlnet = given.controlnet
    if not isinstance(controlnet, str | Path | ControlNetModel | None):
        raise ValueError(
            f"controlnet is a {type(controlnet).__name__}, allowed: a folder, a hub id, or a "
            "ControlNetModel"
        )
    if isinstance(controlnet, str | Path):
        family = replace(family, controlnet=str(controlnet))
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
    values = (encoders, given.sampler, given.fusion)
    for (name, kind), value in zip(kinds.items(), values, strict=True):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name} is a {type(value).__name__}, allowed: {kind.__name__}")
    return replace(
        family,
        encoders=encoders or family.encoders,
        weights=tuple((name, str(path)) for name, path in weights.items())
        if weights
        else family.weights,
        sampler=given.sampler or family.sampler,
        fusion=given.fusion or family.fusion,
        attention=given.attention,
        # `check_trained` refuses them, in the words of this interface.
        allow_untrained=True,
    )


def _fitted(family: Preset, base: BaseModel) -> Preset:
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


def _check_name(name: str | Path) -> None:
    """Raises a ValueError for what is no preset and can be no address of a base."""
    if isinstance(name, str | Path) and str(name):
        place = Path(name).expanduser()
        if str(name) in PRESETS or is_single_file(name) or place.is_dir():
            return
        if len(place.parts) > 1 and not place.is_file():
            return
    raise ValueError(
        f"name is {name!r}, allowed: a preset ({', '.join(PRESETS)}), a folder, OWNER/NAME of a "
        "hub, or a .safetensors file"
    )


def _check_addressed(base: str, *, revision: Any, variant: Any, config: Any) -> None:
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


def _check_pipe(pipe: Any) -> None:
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
