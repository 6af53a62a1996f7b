"""Public IP-Adapter files for SDXL by their names, keys and shapes, with random weights.

Written down from the layers that h94/IP-Adapter and h94/IP-Adapter-FaceID were saved from
(tencent-ailab/IP-Adapter: `resampler.py`, `ip_adapter_faceid.py`, `attention_processor_faceid.py`),
and not from the code here that reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from benchmarks.real_size_files import write_safetensors
from infinite_id.attention.processors import attention_layers

__all__ = ["PUBLIC_NAMES", "AdapterSizes", "adapter_shapes", "write_adapter"]

PUBLIC_NAMES = {
    "plus_face": "ip-adapter-plus-face_sdxl_vit-h.safetensors",
    "faceid": "ip-adapter-faceid_sdxl.bin",
    "faceid_plusv2": "ip-adapter-faceid-plusv2_sdxl.bin",
}
"""Kinds of `infinite_id.weights.public_adapters`, and how their publishers call the files."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class AdapterSizes:
    """Sizes of a public adapter; SDXL's by default.

    Attributes:
        width: of the base's texts.
        face, clip: widths of the face embedding and of the CLIP tokens.
        hidden, queries: width of the plus-face resampler, and its tokens a photo.
        layers, wide: of a resampler; its feed-forward layers are so many times as wide.
        tokens: identity tokens of a FaceID file.
        rank: of its LoRA.
    """

    width: int = 2048
    face: int = 512
    clip: int = 1280
    hidden: int = 1280
    queries: int = 16
    layers: int = 4
    wide: int = 4
    tokens: int = 4
    rank: int = 128


def adapter_shapes(kind: str, unet: UNet2DConditionModel, sizes: AdapterSizes) -> dict[str, Shapes]:
    """Keys and shapes of the two parts of a public file, `image_proj` and `ip_adapter`.

    Args:
        kind: of `PUBLIC_NAMES`.
        unet: that it is for.
        sizes: of it.
    """
    return {"image_proj": _image_proj(kind, sizes), "ip_adapter": _ip_adapter(kind, unet, sizes)}


def _resampler(width: int, sizes: AdapterSizes, prefix: str = "") -> Shapes:
    output = sizes.width
    shapes: Shapes = {
        "proj_in.weight": (width, sizes.clip),
        "proj_in.bias": (width,),
        "proj_out.weight": (output, width),
        "proj_out.bias": (output,),
        "norm_out.weight": (output,),
        "norm_out.bias": (output,),
    }
    for layer in range(sizes.layers):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes[f"layers.{layer}.{norm}.weight"] = (width,)
            shapes[f"layers.{layer}.{norm}.bias"] = (width,)
        shapes[f"layers.{layer}.0.to_q.weight"] = (width, width)
        shapes[f"layers.{layer}.0.to_kv.weight"] = (2 * width, width)
        shapes[f"layers.{layer}.0.to_out.weight"] = (width, width)
        shapes[f"layers.{layer}.1.1.weight"] = (sizes.wide * width, width)
        shapes[f"layers.{layer}.1.3.weight"] = (width, sizes.wide * width)
    return {prefix + name: shape for name, shape in shapes.items()}


def _image_proj(kind: str, sizes: AdapterSizes) -> Shapes:
    if kind == "plus_face":
        return {"latents": (1, sizes.queries, sizes.hidden), **_resampler(sizes.hidden, sizes)}
    shapes: Shapes = {
        "proj.0.weight": (2 * sizes.face, sizes.face),
        "proj.0.bias": (2 * sizes.face,),
        "proj.2.weight": (sizes.tokens * sizes.width, 2 * sizes.face),
        "proj.2.bias": (sizes.tokens * sizes.width,),
        "norm.weight": (sizes.width,),
        "norm.bias": (sizes.width,),
    }
    if kind == "faceid_plusv2":
        shapes |= _resampler(sizes.width, sizes, "perceiver_resampler.")
    return shapes


def _ip_adapter(kind: str, unet: UNet2DConditionModel, sizes: AdapterSizes) -> Shapes:
    shapes: Shapes = {}
    for number, layer in enumerate(attention_layers(unet)):
        inner = unet.get_submodule(layer).to_q.out_features
        if layer.endswith("attn2"):
            shapes[f"{number}.to_k_ip.weight"] = (inner, sizes.width)
            shapes[f"{number}.to_v_ip.weight"] = (inner, sizes.width)
        if kind == "plus_face":
            continue
        for name in ("to_q", "to_k", "to_v", "to_out"):
            of_texts = layer.endswith("attn2") and name in ("to_k", "to_v")
            source = sizes.width if of_texts else inner
            shapes[f"{number}.{name}_lora.down.weight"] = (sizes.rank, source)
            shapes[f"{number}.{name}_lora.up.weight"] = (inner, sizes.rank)
    return shapes


def write_adapter(
    path: Path,
    unet: UNet2DConditionModel,
    kind: str = "plus_face",
    sizes: AdapterSizes | None = None,
    *,
    filled: bool = False,
) -> None:
    """Writes one in half precision: .safetensors, or .bin as `torch.save` wrote the public ones.

    Args:
        path: of the file.
        unet: that it is for; "meta" will do.
        kind: of `PUBLIC_NAMES`.
        sizes: SDXL's by default.
        filled: with random weights; else they are a hole of the file system, or zeros in a .bin.
    """
    parts = adapter_shapes(kind, unet, sizes or AdapterSizes())
    if path.suffix == ".bin":
        draw = random_weights if filled else torch.zeros
        torch.save(
            {
                part: {name: draw(shape).half() for name, shape in own.items()}
                for part, own in parts.items()
            },
            path,
        )
        return
    flat = {f"{part}.{name}": shape for part, own in parts.items() for name, shape in own.items()}
    write_safetensors(path, flat, filled=filled)


def random_weights(shape: tuple[int, ...]) -> torch.Tensor:
    """Of a variance that keeps activations in their range; float32."""
    return torch.randn(shape) * shape[-1] ** -0.5
