"""Files in exactly the formats of the public IP-Adapter face weights, at a small width."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from infinite_id.attention.processors import attention_layers
from tests.infinite_id.tiny import ADAPTER

__all__ = ["KINDS", "write_public"]

KINDS = ("plus_face", "faceid", "faceid_plusv2")
FACE, CLIP, WIDTH = ADAPTER.face_width, ADAPTER.clip_width, ADAPTER.cross_attention_dim


def _resampler(width: int, output: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "proj_in.weight": (width, CLIP),
        "proj_in.bias": (width,),
        "proj_out.weight": (output, width),
        "proj_out.bias": (output,),
        "norm_out.weight": (output,),
        "norm_out.bias": (output,),
    }
    for layer in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes[f"layers.{layer}.{norm}.weight"] = (width,)
            shapes[f"layers.{layer}.{norm}.bias"] = (width,)
        shapes[f"layers.{layer}.0.to_q.weight"] = (64, width)
        shapes[f"layers.{layer}.0.to_kv.weight"] = (128, width)
        shapes[f"layers.{layer}.0.to_out.weight"] = (width, 64)
        shapes[f"layers.{layer}.1.1.weight"] = (4 * width, width)
        shapes[f"layers.{layer}.1.3.weight"] = (width, 4 * width)
    return {prefix + name: shape for name, shape in shapes.items()}


def _image_proj(kind: str) -> dict[str, tuple[int, ...]]:
    if kind == "plus_face":
        return {"latents": (1, 6, 64), **_resampler(64, WIDTH)}
    shapes: dict[str, tuple[int, ...]] = {
        "proj.0.weight": (2 * FACE, FACE),
        "proj.0.bias": (2 * FACE,),
        "proj.2.weight": (4 * WIDTH, 2 * FACE),
        "proj.2.bias": (4 * WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    if kind == "faceid_plusv2":
        shapes |= _resampler(WIDTH, WIDTH, "perceiver_resampler.")
    return shapes


def _ip_adapter(unet: UNet2DConditionModel, kind: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number, layer in enumerate(attention_layers(unet)):
        attn = unet.get_submodule(layer)
        inner = attn.to_q.out_features
        if layer.endswith("attn2"):
            shapes[f"{number}.to_k_ip.weight"] = (inner, WIDTH)
            shapes[f"{number}.to_v_ip.weight"] = (inner, WIDTH)
        if kind == "plus_face":
            continue
        for name in ("to_q", "to_k", "to_v", "to_out"):
            source = WIDTH if layer.endswith("attn2") and name in ("to_k", "to_v") else inner
            shapes[f"{number}.{name}_lora.down.weight"] = (4, source)
            shapes[f"{number}.{name}_lora.up.weight"] = (inner, 4)
    return shapes


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

    state = {"image_proj": draw(_image_proj(kind)), "ip_adapter": draw(_ip_adapter(unet, kind))}
    path = folder / f"{kind}{suffix}"
    save_public(path, state)
    return path, state


def save_public(path: Path, state: dict[str, dict[str, Tensor]]) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
        return
    flat = {f"{part}.{key}": value for part, own in state.items() for key, value in own.items()}
    save_file(flat, path)
