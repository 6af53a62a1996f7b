"""Files in exactly the formats of the public IP-Adapter face weights, at a small width."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.real_size_adapters import PUBLIC_NAMES, AdapterSizes, adapter_shapes
from tests.infinite_id.tiny import ADAPTER

__all__ = ["KINDS", "write_public"]

KINDS = tuple(PUBLIC_NAMES)
SIZES = AdapterSizes(
    width=ADAPTER.cross_attention_dim,
    face=ADAPTER.face_width,
    clip=ADAPTER.clip_width,
    hidden=64,
    queries=6,
    rank=4,
)


def write_public(
    folder: Path, unet: UNet2DConditionModel, kind: str, suffix: str = ".bin"
) -> tuple[Path, dict[str, dict[str, Tensor]]]:
    """(file, its tensors): random weights, half precision as the real ones are."""
    generator = torch.Generator().manual_seed(11)

    def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        return {
            name: (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).half()
            for name, shape in shapes.items()
        }

    state = {part: draw(own) for part, own in adapter_shapes(kind, unet, SIZES).items()}
    path = folder / f"{kind}{suffix}"
    save_public(path, state)
    return path, state


def save_public(path: Path, state: dict[str, dict[str, Tensor]]) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
        return
    flat = {f"{part}.{key}": value for part, own in state.items() for key, value in own.items()}
    save_file(flat, path)
