"""A tiny SDXL in one file, with the names of the files that people share: those of Stability AI's
own code (`model.diffusion_model`, `first_stage_model`, `conditioner.embedders`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.infinite_id.tiny import tiny_pipeline

__all__ = ["two_widths", "write_checkpoint"]

State = dict[str, Tensor]
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def two_widths() -> StableDiffusionXLPipeline:
    """The tiny pipeline with text encoders of two widths, by which loaders tell them apart."""
    pipe = tiny_pipeline()
    settings = pipe.text_encoder.config.to_dict()
    torch.manual_seed(6)
    narrow = CLIPTextConfig(**{**settings, "hidden_size": 24})
    wide = CLIPTextConfig(**{**settings, "hidden_size": 40, "hidden_act": "gelu"})
    pipe.text_encoder = CLIPTextModel(narrow).eval()
    pipe.text_encoder_2 = CLIPTextModelWithProjection(wide).eval()
    return pipe


def write_checkpoint(
    path: Path, pipe: StableDiffusionXLPipeline, dtype: torch.dtype = torch.float32
) -> Path:
    """Writes all weights of `pipe` into one file."""
    parts: list[tuple[str, Iterator[tuple[str, Tensor]]]] = [
        ("model.diffusion_model", _unet(pipe.unet.state_dict())),
        ("first_stage_model", _vae(pipe.vae.state_dict())),
        ("conditioner.embedders.0.transformer", _clip(pipe.text_encoder.state_dict())),
        ("conditioner.embedders.1.model", _open_clip(pipe.text_encoder_2.state_dict())),
    ]
    state = {
        f"{prefix}.{name}": value.to(dtype).contiguous()
        for prefix, own in parts
        for name, value in own
    }
    save_file(state, path)
    return path


def _renamed(name: str, names: dict[str, str]) -> str:
    for own, other in names.items():
        if name.startswith(f"{own}."):
            return other + name.removeprefix(own)
    return name


def _unet(state: State) -> Iterator[tuple[str, Tensor]]:
    """One layer a block: a residual block, perhaps an attention, perhaps a change of size."""
    for name, value in state.items():
        side, _, rest = name.partition(".")
        if side not in ("down_blocks", "up_blocks"):
            place = _renamed(name, _UNET)
        else:
            number, kind, layer, inner = rest.split(".", 3)
            first = 2 * int(number) + (1 if side == "down_blocks" else 0)
            where = "input_blocks" if side == "down_blocks" else "output_blocks"
            if kind == "downsamplers":
                place = f"{where}.{first + 1}.0.{inner.replace('conv.', 'op.')}"
            elif kind == "upsamplers":
                place = f"{where}.{first + 1}.2.{inner}"
            else:
                what = 0 if kind == "resnets" else 1
                place = f"{where}.{first + int(layer)}.{what}.{inner}"
        if ".resnets." in name:
            *block, part, kind = place.split(".")
            place = ".".join([*block, _renamed(f"{part}.{kind}", _RESNET)])
        yield place, value


def _vae(state: State) -> Iterator[tuple[str, Tensor]]:
    last = max(int(name.split(".")[2]) for name in state if ".up_blocks." in name)
    for name, value in state.items():
        pieces = name.split(".")
        if pieces[1] in ("down_blocks", "up_blocks"):
            side, block = pieces[1][:-7], int(pieces[2])
            level = block if side == "down" else last - block
            what = {"resnets": f"block.{pieces[4]}", "downsamplers": "downsample"}
            what["upsamplers"] = "upsample"
            place = ".".join([pieces[0], side, str(level), what[pieces[3]], *pieces[5:]])
        elif pieces[1] == "mid_block":
            number = int(pieces[3]) + 1
            attention = pieces[2] == "attentions"
            inner = ".".join(pieces[4:])
            inner = _renamed(inner, _VAE_ATTENTION) if attention else inner
            place = f"{pieces[0]}.mid.{'attn' if attention else 'block'}_{number}.{inner}"
            if attention and value.ndim == 2:
                value = value[:, :, None, None]
        else:
            place = name
        place = place.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        yield place, value


def _clip(state: State) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        yield f"text_model.{name.removeprefix('text_model.')}", value


def _open_clip(state: State) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        inner = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            yield "text_projection", value.T
        elif inner == "embeddings.token_embedding.weight":
            yield "token_embedding.weight", value
        elif inner == "embeddings.position_embedding.weight":
            yield "positional_embedding", value
        elif inner.startswith("final_layer_norm."):
            yield inner.replace("final_layer_norm", "ln_final"), value
        elif "q_proj" in inner:
            kind = inner.rpartition(".")[2]
            three = [state[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            place = inner.split("self_attn")[0].replace("encoder.layers", "transformer.resblocks")
            yield f"{place}attn.in_proj_{kind}", torch.cat(three)
        elif "k_proj" not in inner and "v_proj" not in inner:
            start, number, rest = inner.removeprefix("encoder.layers.").partition(".")
            yield f"transformer.resblocks.{start}{number}{_renamed(rest, _CLIP)}", value
