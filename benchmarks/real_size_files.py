"""Files with the names, keys and shapes of the public ones: a hole for weights, or random ones."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from infinite_id.pocket.image_text import load_tokenizer
from infinite_id.training.dry_run import SDXL_UNET

__all__ = [
    "REAL",
    "SMALL",
    "Sizes",
    "vae_settings",
    "write_pack",
    "write_safetensors",
    "write_sdxl_base",
    "write_vit_h",
]

Shapes = Mapping[str, tuple[int, ...]]
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the networks are. What another file has to fit stays: widths of texts, tokens.

    Attributes:
        unet: what differs from SDXL's UNet.
        vae: channels of its blocks.
        text_layers: of the two text encoders.
        vocabulary: tokens of each, None for those that the tokenizer in the folder has.
        image_layers: of the image tower.
        image_wide: its feed-forward layer.
        face_wide: of the face recogniser's hidden layer.
        adapter: layers of an adapter's resampler, and how many times as wide their feed-forward
            layers are.
    """

    unet: Mapping[str, Any] = field(default_factory=dict)
    vae: tuple[int, ...] = (128, 256, 512, 512)
    text_layers: tuple[int, int] = (12, 32)
    vocabulary: int | None = 49408
    image_layers: int = 32
    image_wide: int = 5120
    face_wide: int = 1100
    adapter: tuple[int, int] = (4, 4)


REAL = Sizes()
SMALL = Sizes(
    unet={
        "block_out_channels": (32, 64, 64),
        "attention_head_dim": (2, 4, 4),
        "transformer_layers_per_block": (1, 1, 1),
    },
    vae=(32, 32, 32, 32),
    text_layers=(1, 1),
    vocabulary=None,
    image_layers=2,
    image_wide=256,
    face_wide=8,
    adapter=(1, 1),
)


def write_safetensors(
    path: Path, shapes: Shapes, dtype: str = "F16", *, filled: bool = False
) -> None:
    """A file of these names and shapes; without `filled` its weights are a hole of the file
    system, else they are random."""
    size = {"F16": 2, "F32": 4}[dtype]
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        if not filled:
            stream.truncate(8 + len(text) + end)
            return
        drawn = np.random.default_rng(0).standard_normal(_CHUNK, dtype=np.float32)
        for name, shape in shapes.items():
            stream.writelines(_values(name, shape, drawn, np.float16 if size == 2 else np.float32))


def _values(name: str, shape: tuple[int, ...], drawn: Any, dtype: Any) -> Any:
    """The bytes of a tensor, of a variance that keeps activations in their range."""
    count = math.prod(shape)
    if name.endswith("bias"):
        yield np.zeros(count, dtype).tobytes()
    elif len(shape) == 1:
        yield np.ones(count, dtype).tobytes()
    else:
        part = (drawn[:count] * math.prod(shape[1:]) ** -0.5).astype(dtype)
        for begin in range(0, count, _CHUNK):
            yield part[: min(_CHUNK, count - begin)].tobytes()


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def vae_settings(sizes: Sizes) -> dict[str, Any]:
    """SDXL's, written down so that no hub is asked."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": sizes.vae,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.13025,
    }


def write_sdxl_base(
    folder: Path, sizes: Sizes = REAL, *, filled: bool = False
) -> UNet2DConditionModel:
    """SDXL base as the hub has it in half precision; its UNet on torch's device "meta"."""
    vocabulary = sizes.vocabulary or len(load_tokenizer())
    text: dict[str, Any] = {"vocab_size": vocabulary, "max_position_embeddings": 77}
    small = {"hidden_size": 768, "intermediate_size": 3072}
    large = {"hidden_size": 1280, "intermediate_size": 5120}
    first, second = sizes.text_layers
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**SDXL_UNET, **sizes.unet})
        parts: dict[str, Any] = {
            "unet": unet,
            "vae": AutoencoderKL(**vae_settings(sizes)),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    **text,
                    **small,
                    num_hidden_layers=first,
                    num_attention_heads=12,
                    projection_dim=768,
                )
            ),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig(
                    **text,
                    **large,
                    num_hidden_layers=second,
                    num_attention_heads=20,
                    projection_dim=1280,
                )
            ),
        }
    for part, network in parts.items():
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        path = folder / part / f"{stem}.fp16.safetensors"
        write_safetensors(path, _shapes(network), filled=filled)
        if part.startswith("text"):
            network.config.save_pretrained(folder / part)
        else:
            network.save_config(folder / part)
    for part in ("tokenizer", "tokenizer_2"):
        tokenizer = load_tokenizer()
        tokenizer.model_max_length = text["max_position_embeddings"]
        tokenizer.save_pretrained(folder / part)
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_config(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return unet


def write_vit_h(
    folder: Path, width: int = 1280, sizes: Sizes = REAL, *, filled: bool = False
) -> None:
    """OpenCLIP ViT-H/14's image tower."""
    with torch.device("meta"):
        tower = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=sizes.image_wide * width // 1280,
                num_hidden_layers=sizes.image_layers,
                num_attention_heads=16,
                patch_size=14,
                image_size=224,
                projection_dim=1024,
            )
        )
    write_safetensors(folder / "model.safetensors", _shapes(tower), "F32", filled=filled)
    tower.config.save_pretrained(folder)


def write_pack(folder: Path, sizes: Sizes = REAL) -> None:
    """An insightface pack by names, inputs and outputs.

    Its SCRFD sees a face in the middle of every photo; its recogniser is two linear
    layers of about ArcFace's size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    side, stride = 640, 32
    outputs: list[list[Any]] = [[], [], []]
    for step in (8, 16, 32):
        cells = 2 * (side // step) ** 2
        score = np.zeros((cells, 1), np.float32)
        if step == stride:
            # Two anchors a cell, row by row.
            score[2 * (side // step // 2) * (side // step + 1)] = 0.9
        outputs[0].append(score)
        outputs[1].append(np.full((cells, 4), side / 4 / step, np.float32))
        outputs[2].append(np.tile(_LANDMARKS * side / step, (cells, 1)))
    constants = [array for kind in outputs for array in kind]
    _save_onnx(folder / "det_10g.onnx", side, constants)
    _save_onnx(folder / "w600k_r50.onnx", 112, [], sizes.face_wide)


# Eyes, nose and mouth's corners around the middle, in sides of the picture.
_LANDMARKS = np.array([[-9, -7, 9, -7, 0, 4, -7, 14, 7, 14]], np.float32) / 100


def _save_onnx(path: Path, side: int, constants: list[Any], wide: int = 0) -> None:
    """Outputs that are constants plus nothing of the input, or two linear layers of it."""
    import onnx
    from onnx import helper, numpy_helper

    nodes, weights, outputs = [], [], []
    if constants:
        nodes.append(helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0))
        nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
        weights.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    for number, constant in enumerate(constants):
        weights.append(numpy_helper.from_array(constant, f"c{number}"))
        nodes.append(helper.make_node("Add", [f"c{number}", "nothing"], [f"y{number}"]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", 1, constant.shape))
    if wide:
        rng = np.random.default_rng(1)
        nodes.append(helper.make_node("Flatten", ["x"], ["h0"]))
        for number, shape in enumerate(((3 * side**2, wide), (wide, 512))):
            drawn = rng.standard_normal(shape, np.float32) * shape[0] ** -0.5
            weights.append(numpy_helper.from_array(drawn, f"w{number}"))
            nodes.append(
                helper.make_node("MatMul", [f"h{number}", f"w{number}"], [f"h{number + 1}"])
            )
        outputs.append(helper.make_tensor_value_info("h2", 1, (1, 512)))
    value = helper.make_tensor_value_info("x", 1, [1, 3, side, side])
    graph = helper.make_graph(nodes, path.stem, [value], outputs, weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
