"""Identity-enhanced training of SDXL size, built at real shapes on the meta device.

No weight is allocated and nothing is fetched: it answers, before a GPU is rented, how many
parameters are trained and frozen, what a GPU must hold, and what a million steps cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from infinite_id.config import Preset
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.training.adapter import AdapterBatch, AdapterTraining
from infinite_id.training.distributed import Strategy, split_parts
from infinite_id.training.loop_config import Precision

__all__ = ["SDXL_UNET", "DryRun", "dry_run"]

_PEAK_TFLOPS = 312.0  # of an A100 in bfloat16
_UTILISATION = 0.4  # of that peak
_PRICE_PER_GPU_HOUR = 2.0  # in any currency

SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""The UNet of stabilityai/stable-diffusion-xl-base-1.0, written down so that no hub is asked."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a recipe needs.

    Attributes:
        trainable, frozen: parameters.
        cross_attention_layers: layers that get image projections.
        state_gib: of one GPU: frozen weights; trained ones with gradient, two moments and average
            in float32. Activations come on top and, where text is active, the text encoders.
        step_tflop: of one GPU and step, forward and backward, 10^12 multiply-adds times two.
        days_per_million_steps: on one GPU at the assumed speed (all GPUs work side by side).
        gpu_hours_per_million_steps: days times GPUs.
        cost_per_million_steps: GPU hours times the price.
    """

    trainable: int
    frozen: int
    cross_attention_layers: int
    state_gib: float
    step_tflop: float
    days_per_million_steps: float
    gpu_hours_per_million_steps: float
    cost_per_million_steps: float


def dry_run(
    preset: Preset,
    unet: dict[str, Any] = SDXL_UNET,
    *,
    batch: int = 4,
    gpus: int = 16,
    strategy: Strategy = "ddp",
    precision: Precision = "bfloat16",
    text_active: bool = False,
) -> DryRun:
    """Builds everything that a training step touches on the meta device and counts.

    Args:
        preset: shapes of the adapter and of the identity tokens.
        unet: configuration of the base's UNet.
        batch: pictures a GPU and step.
        gpus: of the whole run.
        strategy: "fsdp" splits the frozen base over the GPUs, and holds two parts whole while it
            computes: the one at work and the next.
        precision: of the frozen weights.
        text_active: the ablation.

    Raises:
        ValueError: the adapter's widths do not fit the UNet.
    """
    with torch.device("meta"):
        base: Any = UNet2DConditionModel(**unet)
        adapter = IdentityAdapter(preset.adapter, base)
        model = AdapterTraining(base, adapter, torch.ones(1000), "epsilon", text_active=text_active)
        size = unet["sample_size"]
        latents = torch.empty(batch, unet["in_channels"], size, size)
        pair = AdapterBatch(
            latents=latents,
            face=torch.empty(batch, preset.adapter.face_width),
            clip=torch.empty(batch, preset.encoders.clip_tokens, preset.adapter.clip_width),
            keep=torch.empty(batch, dtype=torch.bool),
            noise=latents,
            timesteps=torch.empty(batch, dtype=torch.int64),
            time_ids=torch.empty(batch, 6),
            text=torch.empty(batch, 77, unet["cross_attention_dim"]) if text_active else None,
            pooled=torch.empty(batch, model.pooled_width) if text_active else None,
        )
        with FlopCounterMode(display=False) as counter:
            model(pair).backward()
    trainable = sum(p.numel() for p in adapter.parameters())
    frozen = sum(p.numel() for p in base.parameters())
    tflop = counter.get_total_flops() / 1e12
    seconds = tflop / (_PEAK_TFLOPS * _UTILISATION)
    days = seconds * 1e6 / 86_400
    hours = days * 24 * gpus
    held = _held(model, gpus) if strategy == "fsdp" else frozen
    width = 2 if precision == "bfloat16" else 4
    return DryRun(
        trainable=trainable,
        frozen=frozen,
        cross_attention_layers=len(model.layers),
        state_gib=(width * held + 20 * trainable) / 2**30,
        step_tflop=tflop,
        days_per_million_steps=days,
        gpu_hours_per_million_steps=hours,
        cost_per_million_steps=hours * _PRICE_PER_GPU_HOUR,
    )


def _held(model: AdapterTraining, gpus: int) -> float:
    """Parameters of the frozen base that one of several GPUs holds at most."""
    parts, counted = split_parts(model)
    base: Any = model.unet
    total, sizes = sum(p.numel() for p in base.parameters()), []
    for part in parts:
        own = set(part.parameters()) - counted
        counted |= own
        sizes.append(sum(p.numel() for p in own))
    split = sum(sizes)
    return total - split + split / gpus + (sum(sorted(sizes)[-2:]) if gpus > 1 else 0)
