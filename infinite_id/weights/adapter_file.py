"""Adapter weights: one safetensors file keyed by module name, with metadata that is checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinite_id.config import AdapterConfig
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.model_files.headers import read_header, shapes_of
from infinite_id.packages import file_digest
from infinite_id.weights.places import weights_header

__all__ = ["AdapterMetadata", "adapter_config", "load_adapter", "save_adapter"]

_FORMAT_VERSION = "1"
_SHAPES = fields(AdapterConfig)


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """What an adapter file says of itself.

    Attributes:
        base: the base model it was trained on, with its revision.
        encoders: names and revisions of the face and CLIP encoders.
        step: of training.
        text_active: whether text cross-attention was active in training (the ablation).
        revision: names these weights.
    """

    base: str
    encoders: str
    step: int
    text_active: bool
    revision: str = ""


def save_adapter(path: str | Path, adapter: IdentityAdapter, metadata: AdapterMetadata) -> None:
    """Writes `adapter` to one file; shapes and metadata travel in its header."""
    header = {
        "format": "infinite-id-adapter",
        "format_version": _FORMAT_VERSION,
        **{name: str(value) for name, value in asdict(metadata).items() if name != "revision"},
        **{name: str(value) for name, value in asdict(adapter.config).items()},
    }
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in adapter.state_dict().items()
    }
    save_file(tensors, str(path), metadata=header)


def adapter_config(path: str | Path) -> AdapterConfig:
    """The shapes that a file of `save_adapter` says it has.

    Raises:
        ValueError: it cannot be read, or does not say.
    """
    header = read_header(path).get("__metadata__", {})
    try:
        return AdapterConfig(**{field.name: int(header[field.name]) for field in _SHAPES})
    except (KeyError, ValueError) as error:
        raise ValueError(f"adapter {path} cannot be read: {error}") from error


def load_adapter(
    path: str | Path,
    config: AdapterConfig,
    unet: UNet2DConditionModel,
    *,
    base: str | None = None,
    encoders: str | None = None,
    shapes_only: bool = False,
) -> tuple[IdentityAdapter, AdapterMetadata]:
    """Reads a file of `save_adapter`.

    Args:
        path: of the file.
        config: the shapes wanted.
        unet: the base model's.
        base: digest that names the base; None takes any.
        encoders: "FACES+CLIP" as a preset names them; None takes any. A folder is only a place of
            files, so it agrees with every name.
        shapes_only: see `infinite_id.weights.public_adapters.load_public_adapter`.

    Raises:
        ValueError: not such a file, a later format, another base or encoders, other shapes,
            or a missing or surplus key; the message names the file and both sides.
    """
    found = (weights_header(path) or {}) if shapes_only else read_header(path)
    header = found.get("__metadata__", {})
    tensors: dict[str, Tensor] = {
        name: torch.empty(shape, device="meta") for name, shape in shapes_of(found).items()
    }
    if header.get("format") != "infinite-id-adapter":
        raise ValueError(f"adapter {path} is no Infinite-ID adapter: its header lacks the format")
    if header["format_version"] != _FORMAT_VERSION:
        raise ValueError(
            f"adapter {path} has format version {header['format_version']}, "
            f"allowed: {_FORMAT_VERSION}"
        )
    other = {
        "base": base is not None and header.get("base") != base,
        "encoders": encoders is not None and _other_names(header.get("encoders", ""), encoders),
    }
    for name, needed in (("base", base), ("encoders", encoders)):
        if other[name]:
            raise ValueError(
                f"adapter {path} was trained with {name} {header.get(name)}, allowed: {needed}"
            )
    for field in _SHAPES:
        wanted = str(getattr(config, field.name))
        if header.get(field.name) != wanted:
            raise ValueError(
                f"adapter {path} has {field.name} {header.get(field.name)}, the preset has {wanted}"
            )
    adapter = IdentityAdapter(config, unet)
    own = adapter.state_dict()
    _check_keys(path, set(tensors), set(own))
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"adapter {path}, key {name!r} has the shape {tuple(tensor.shape)}, "
                f"the base model needs {tuple(own[name].shape)}"
            )
    if not shapes_only:
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"adapter {path} cannot be read: {error}") from error
        adapter.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return adapter, AdapterMetadata(
        header["base"],
        header["encoders"],
        int(header["step"]),
        header["text_active"] == "True",
        "" if shapes_only else f"adapter-{file_digest(path)[:12]}",
    )


def _other_names(found: str, wanted: str) -> bool:
    """Whether two "FACES+CLIP" name other networks; addresses of folders name none."""
    pairs = zip(found.split("+"), wanted.split("+"), strict=False)
    return any(a != b for a, b in pairs if not _is_place(a) and not _is_place(b))


def _is_place(name: str) -> bool:
    return "://" in name or name.startswith((".", "/", "~")) or Path(name).is_dir()


def _check_keys(path: str | Path, found: set[str], wanted: set[str]) -> None:
    for word, names in (("lacks", wanted - found), ("has the surplus", found - wanted)):
        if names:
            first = min(names)
            raise ValueError(f"adapter {path} {word} key {first!r} ({len(names)} such keys)")
