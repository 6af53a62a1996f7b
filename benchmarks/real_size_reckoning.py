"""What SDXL costs at 1024 px, by the shapes alone: networks on torch's device "meta"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.real_size_files import REAL, vae_settings
from infinite_id.attention.fusion import KeyValue, fuse
from infinite_id.attention.processors import self_attention_layers
from infinite_id.config import preset
from infinite_id.training.dry_run import SDXL_UNET

__all__ = ["reckoned"]

_SIDE = 128  # of the latents


def reckoned(arguments: Mapping[str, Any]) -> dict[str, float]:
    """TFLOP are 10^12 multiply-adds times two; bytes are those of bfloat16 without a fused kernel.

    Args:
        arguments: tflops, utilisation (of the card, in (0, 1]), terabytes_per_s (of its memory).

    Returns:
        of a row and step: TFLOP of the UNet, TFLOP that an identity row takes more because it
        attends to the text row as well, GB that fusion moves; of a picture: TFLOP of the VAE's
        decoder; pictures per second of one person alone and of eight together, one text for all.
    """
    # Text states, pooled text and sizes as SDXL has them.
    inputs = (torch.empty(1, 4, _SIDE, _SIDE), torch.empty(1), torch.empty(1, 77, 2048))
    extra = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    shapes: list[torch.Size] = []
    with torch.device("meta"), torch.inference_mode():
        unet = UNet2DConditionModel(**SDXL_UNET)
        for name in self_attention_layers(unet):
            layer = unet.get_submodule(name).to_k
            layer.register_forward_hook(lambda _, __, out: shapes.append(out.shape))
        with FlopCounterMode(display=False) as counter:
            unet(
                *(one.to("meta") for one in inputs),
                added_cond_kwargs={key: value.to("meta") for key, value in extra.items()},
            )
        row = counter.get_total_flops() / 1e12
        vae = AutoencoderKL(**vae_settings(REAL))
        with FlopCounterMode(display=False) as counter:
            vae.decode(torch.empty(1, 4, _SIDE, _SIDE))
        decoder = counter.get_total_flops() / 1e12
        with _Bytes() as moved:
            for shape in shapes:
                _fused(shape)
    # Q K^T and its product with V, over as many tokens again.
    more = sum(4 * length**2 * width for _, length, width in shapes) / 1e12
    found = {
        "unet_tflop_a_row_and_step": row,
        "fusion_tflop_an_identity_row_and_step": more,
        "fusion_gb_an_identity_row_and_step": moved.bytes / 1e9,
        "vae_tflop_a_picture": decoder,
    }
    speed = arguments["tflops"] * arguments["utilisation"]
    for people in (1, 8):
        # docs/method.md: 2 (G + N) rows a step, of which 2 N are identity rows.
        work = 2 * (1 + people) * row + 2 * people * more
        step = work / speed + 2 * people * moved.bytes / 1e12 / arguments["terabytes_per_s"]
        seconds = step * preset("sdxl").sampler.num_inference_steps + people * decoder / speed
        found[f"card_pictures_per_s_{people}"] = people / seconds
    return found


def _fused(shape: torch.Size) -> None:
    """What one identity row's layer does: takes its text row's K and V, and joins both."""
    rows = torch.zeros(shape[0], dtype=torch.int64)
    text, own = (
        KeyValue(*(torch.empty(shape, dtype=torch.bfloat16) for _ in range(2))) for _ in range(2)
    )
    fusion = preset("sdxl").fusion
    taken = KeyValue(text.key[rows], text.value[rows])
    fuse(taken, own, fusion.fusion, fusion.self_norm)


class _Bytes(TorchDispatchMode):
    """Counts the bytes that operations read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func not in _MAKERS:
            for one in tree_leaves((args, kwargs, out)):
                if isinstance(one, torch.Tensor):
                    self.bytes += one.numel() * one.element_size()
        return out


_MAKERS = (torch.ops.aten.empty.memory_format, torch.ops.aten.zeros.default)
