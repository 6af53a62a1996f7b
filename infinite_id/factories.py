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
from infinite_id.identity.encoders import load_clip_encoder
from infinite_id.methods import MethodSpec
from infinite_id.packages import file_revision
from infinite_id.types import Generator
from infinite_id.weights.adapter_file import load_adapter, local_file
from infinite_id.weights.public_adapters import is_public_adapter, load_public_adapter

__all__ = ["fusion_of", "infinite_id", "text_only"]

_UNTRAINED_SEED = 20240318


def _need(base: BaseModel | None, spec: MethodSpec) -> BaseModel:
    if base is None:
        raise ValueError(f"method {spec.title!r} needs a base model, allowed: a loaded one")
    return base


def infinite_id(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """Infinite-ID with the fusion of `spec.config` and the adapter weights of `spec.adapter`.

    Where the preset has no trained weights the adapter's are random, from a fixed seed.
    """
    base = _need(base, spec)
    adapter, revision = _adapter(spec, preset, base)
    fusion = fusion_of(spec, preset)
    return InfiniteIdGenerator(
        base,
        adapter,
        fusion,
        preset.sampler,
        f"{base.revision}+{revision}+{_digest(fusion, preset.sampler)}",
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
    address = dict(preset.weights).get(spec.adapter or "")
    path = None if address is None else local_file(address)
    if path is None and preset.adapter_path is not None:
        path = local_file(preset.adapter_path)
        # Our own file is of one training; a public one was trained with text, as baselines are.
        if spec.adapter != "infinite_id" and not is_public_adapter(path):
            path = None
    shipped = path is None
    if path is None and preset.base == "pocket" and spec.adapter is not None:
        from infinite_id.pocket.weights import adapter_path

        path = adapter_path(spec.adapter)
    if path is not None and is_public_adapter(path):
        return _public(path, preset, base)
    if path is not None:
        encoders = None if shipped else f"{preset.encoders.faces}+{preset.encoders.clip}"
        adapter, metadata = load_adapter(
            path, preset.adapter, base.unet, base=base.adapters_of, encoders=encoders
        )
        revision = metadata.revision
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_UNTRAINED_SEED)
            adapter = IdentityAdapter(preset.adapter, base.unet)
        revision = "untrained-adapter"
    return adapter.to(base.device, base.dtype).eval(), revision


def _public(path: Path, preset: Preset, base: BaseModel) -> tuple[StreamAdapter, str]:
    encoders = preset.encoders
    adapter = load_public_adapter(
        path,
        base.unet,
        face_width=encoders.face_width,
        clip_width=encoders.clip_width,
        clip_tokens=encoders.clip_tokens,
    )
    if adapter.kind != "faceid":
        # Loaded for one forward pass: these weights know nobody as the states of a black picture.
        adapter.null_clip = torch.tensor(load_clip_encoder(encoders).embed_nothing())
    revision = f"{adapter.kind}-{file_revision(path, 12)}"
    return adapter.to(base.device, base.dtype), revision


def text_only(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """The base model alone."""
    base = _need(base, spec)
    revision = f"{base.revision}+{_digest(spec.config, preset.sampler)}"
    return TextOnlyGenerator(base, spec.config, preset.sampler, revision)
