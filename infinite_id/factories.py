"""Factories of `METHODS`: from a specification and a base model to a generator."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from pathlib import Path

import torch

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, Preset
from infinite_id.generator import InfiniteIdGenerator, TextOnlyGenerator
from infinite_id.identity.adapter import IdentityAdapter, StreamAdapter
from infinite_id.identity.encoders import null_states
from infinite_id.loaded import loaded_once
from infinite_id.methods import MethodSpec, trained_weights
from infinite_id.packages import file_digest
from infinite_id.pocket.weights import POCKET_DIR
from infinite_id.types import Generator
from infinite_id.weights.adapter_file import load_adapter
from infinite_id.weights.places import is_public_adapter, local_file
from infinite_id.weights.public_adapters import load_public_adapter

__all__ = ["fusion_of", "infinite_id", "text_only"]

_UNTRAINED_SEED = 20240318


def _need(base: BaseModel | None, spec: MethodSpec) -> BaseModel:
    if base is None:
        raise ValueError(f"method {spec.title!r} needs a base model, allowed: a loaded one")
    return base


def infinite_id(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """Infinite-ID with the fusion of `spec.config` and the adapter weights of `spec.weights`.

    Where random weights are allowed and there are no others, they are from a fixed seed.
    """
    base = _need(base, spec)
    adapter, revision = _adapter(spec, preset, base)
    fusion = fusion_of(spec, preset)
    return InfiniteIdGenerator(
        base,
        adapter,
        fusion,
        preset.sampler,
        f"{base.held_revision}+{revision}+{_digest(fusion, preset.sampler)}",
        clip_tokens=preset.encoders.clip_tokens,
    )


def fusion_of(spec: MethodSpec, preset: Preset) -> FusionConfig:
    """The preset's fusion with what the method itself sets: an ablation stays one."""
    plain = FusionConfig()
    values = {field.name: getattr(spec.config, field.name) for field in fields(plain)}
    own = {name: value for name, value in values.items() if value != getattr(plain, name)}
    return replace(preset.fusion, **own)


def _digest(*settings: object) -> str:
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:8]


def _adapter(spec: MethodSpec, preset: Preset, base: BaseModel) -> tuple[StreamAdapter, str]:
    address = trained_weights(spec, preset)
    path = None if address is None else local_file(address)
    digest = "untrained" if path is None else file_digest(path)[:12]
    key = ("adapter", digest, id(base.unet), base.adapters_of, preset.encoders, preset.adapter)
    adapter = loaded_once(key, lambda: _load_adapter(path, preset, base))
    return adapter, f"{getattr(adapter, 'kind', 'adapter')}-{digest}"


def _load_adapter(path: Path | None, preset: Preset, base: BaseModel) -> StreamAdapter:
    encoders = preset.encoders
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_UNTRAINED_SEED)
            untrained = IdentityAdapter(preset.adapter, base.unet)
        return untrained.to(base.device, base.dtype).eval()
    if not is_public_adapter(path):
        # What is shipped with its base fits it.
        shipped = path.is_relative_to(POCKET_DIR)
        own, _ = load_adapter(
            path,
            preset.adapter,
            base.unet,
            base=base.adapters_of,
            encoders=None if shipped else f"{encoders.faces}+{encoders.clip}",
        )
        return own.to(base.device, base.dtype).eval()
    adapter = load_public_adapter(
        path,
        base.unet,
        face_width=encoders.face_width,
        clip_width=encoders.clip_width,
        clip_tokens=encoders.clip_tokens,
    )
    if adapter.kind != "faceid":
        # These weights know nobody as the states of a black picture.
        adapter.null_clip = torch.tensor(null_states(encoders))
    return adapter.to(base.device, base.dtype)


def text_only(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """The base model alone."""
    base = _need(base, spec)
    revision = f"{base.held_revision}+{_digest(spec.config, preset.sampler)}"
    return TextOnlyGenerator(base, spec.config, preset.sampler, revision)
