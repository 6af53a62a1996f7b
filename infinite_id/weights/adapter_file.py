"""Adapter weights: one safetensors file keyed by module name, with metadata that is checked."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from infinite_id.config import AdapterConfig
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.packages import file_revision

__all__ = ["AdapterMetadata", "adapter_config", "load_adapter", "local_file", "save_adapter"]

_FORMAT_VERSION = "1"
_SHAPES = fields(AdapterConfig)


def local_file(address: str | Path) -> Path:
    """A file's path; one at hub://OWNER/NAME@REVISION/FILE is downloaded or found in the cache.

    Raises:
        ValueError: an address of another form, or a file that cannot be had; names the address.
    """
    text = str(address)
    if not text.startswith("hub://"):
        return Path(text)
    found = re.fullmatch(r"hub://([^/@]+/[^/@]+)@([^/]+)/(.+)", text)
    if found is None:
        raise ValueError(f"weights are at {text!r}, allowed: hub://OWNER/NAME@REVISION/FILE")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(found[1], found[3], revision=found[2]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"weights at {text} cannot be had: {reason}") from error


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
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
        return AdapterConfig(**{field.name: int(header[field.name]) for field in _SHAPES})
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"adapter {path} cannot be read: {error}") from error


def load_adapter(
    path: str | Path,
    config: AdapterConfig,
    unet: UNet2DConditionModel,
    *,
    base: str | None = None,
    encoders: str | None = None,
) -> tuple[IdentityAdapter, AdapterMetadata]:
    """Reads a file of `save_adapter`.

    Args:
        path: of the file.
        config: the shapes wanted.
        unet: the base model's.
        base, encoders: those wanted, as the file should name them; None takes any.

    Raises:
        ValueError: not such a file, a later format, another base or encoders, other shapes,
            or a missing or surplus key; the message names the file and both sides.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"adapter {path} cannot be read: {error}") from error
    if header.get("format") != "infinite-id-adapter":
        raise ValueError(f"adapter {path} is no Infinite-ID adapter: its header lacks the format")
    if header["format_version"] != _FORMAT_VERSION:
        raise ValueError(
            f"adapter {path} has format version {header['format_version']}, "
            f"allowed: {_FORMAT_VERSION}"
        )
    for name, needed in (("base", base), ("encoders", encoders)):
        if needed is not None and header.get(name) != needed:
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
    adapter.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    digest = file_revision(path, 12)
    return adapter, AdapterMetadata(
        header["base"],
        header["encoders"],
        int(header["step"]),
        header["text_active"] == "True",
        f"adapter-{digest}",
    )


def _check_keys(path: str | Path, found: set[str], wanted: set[str]) -> None:
    for word, names in (("lacks", wanted - found), ("has the surplus", found - wanted)):
        if names:
            first = min(names)
            raise ValueError(f"adapter {path} {word} key {first!r} ({len(names)} such keys)")
