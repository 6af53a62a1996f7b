"""Files with the names, keys and shapes of the real ones, and holes for weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from infinite_id.attention.processors import attention_layers
from infinite_id.pocket.image_text import load_tokenizer
from infinite_id.training.dry_run import SDXL_UNET
from infinite_id.weights.public_adapters import _public_name

__all__ = ["write_sdxl_base", "write_plus_face", "write_vit_h"]

Shapes = Mapping[str, tuple[int, ...]]


def write_hollow(path: Path, shapes: Shapes, dtype: str = "F16") -> None:
    """A safetensors file whose weights are a hole of the file system."""
    size = {"F16": 2, "F32": 4}[dtype]
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def write_sdxl_base(folder: Path) -> UNet2DConditionModel:
    """SDXL base as the hub has it in half precision; its UNet on torch's device "meta"."""
    text: dict[str, Any] = {"vocab_size": 49408, "max_position_embeddings": 77}
    small = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    large = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
        parts: dict[str, Any] = {
            "unet": unet,
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(**text, **small, num_attention_heads=12, projection_dim=768)
            ),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig(**text, **large, num_attention_heads=20, projection_dim=1280)
            ),
        }
    for part, network in parts.items():
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        write_hollow(folder / part / f"{stem}.fp16.safetensors", _shapes(network))
        if part.startswith("text"):
            network.config.save_pretrained(folder / part)
        else:
            network.save_config(folder / part)
    for part in ("tokenizer", "tokenizer_2"):
        load_tokenizer().save_pretrained(folder / part)
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_config(folder / "scheduler")
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    return unet


def write_vit_h(folder: Path, width: int = 1280) -> None:
    """OpenCLIP ViT-H/14's image tower."""
    with torch.device("meta"):
        tower = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=32,
                num_attention_heads=16,
                patch_size=14,
                image_size=224,
                projection_dim=1024,
            )
        )
    write_hollow(folder / "model.safetensors", _shapes(tower), "F32")
    tower.config.save_pretrained(folder)


def write_plus_face(path: Path, unet: UNet2DConditionModel, width: int = 2048) -> None:
    """ip-adapter-plus-face_sdxl_vit-h, or the like for another text width."""
    with torch.device("meta"):
        projector = IPAdapterPlusImageProjection(
            embed_dims=1280, output_dims=width, hidden_dims=1280, heads=20, num_queries=16
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in _shapes(projector).items():
        key = f"image_proj.{_public_name('plus_face', name)}"
        shapes[key] = (2 * shape[0], *shape[1:]) if ".to_kv." in key else shape
    for number, layer in enumerate(attention_layers(unet)):
        if layer.endswith("attn2"):
            inner = unet.get_submodule(layer).to_k.out_features
            for part in "kv":
                shapes[f"ip_adapter.{number}.to_{part}_ip.weight"] = (inner, width)
    write_hollow(path, shapes)
