"""The stages of the pocket model: autoencoder, image-text models, base, adapters.

Each stage is a `TrainingLoop` over a module; its averaged weights go to `<stage>.safetensors` in
the state folder, where the next stage reads them. Batches are drawn from a generator seeded by
the step, so that a resumed run continues the same sequence.
"""

from __future__ import annotations

import contextlib

import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from infinite_id.pocket import model as pocket
from infinite_id.training.autoencoder import build_decoder_stage, build_vae_stage
from infinite_id.training.context import (
    Context,
    stage_file,
    stage_weights,
)
from infinite_id.training.denoisers import build_adapter, build_base, build_photomaker
from infinite_id.training.image_text import build_image_text
from infinite_id.training.loop import LocalStore, TrainingLoop

__all__ = ["STAGES", "train_stage"]

STAGES = (
    "vae",
    "decoder",
    "clip",
    "scorer",
    "base",
    *(f"adapter:{name}" for name in pocket.ADAPTERS),
)


def train_stage(
    context: Context, stage: str, *, seconds: float | None = None, steps: int | None = None
) -> int:
    """Trains one of `STAGES` further and writes its averaged weights; steps done in all.

    Raises:
        ValueError: unknown stage.
        FileNotFoundError: the weights of an earlier stage are missing.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}, allowed: {', '.join(STAGES)}")
    kind, _, name = stage.partition(":")
    if kind == "vae":
        model, loss, config = build_vae_stage(context)
    elif kind == "decoder":
        model, loss, config = build_decoder_stage(context)
    elif kind in ("clip", "scorer"):
        model, loss, config = build_image_text(context, stage)
    elif kind == "base":
        model, loss, config = build_base(context)
    elif name == "photomaker":
        model, loss, config = build_photomaker(context)
    else:
        model, loss, config = build_adapter(context, name)
    loop = TrainingLoop(
        model,
        loss,
        config,
        store=LocalStore(context.state / f"{stage_file(stage)}.pt"),
        signature={"stage": stage},
        report=lambda progress: context.report(stage, progress),
    )
    if not loop.resume() and (context.state / f"{stage_file(stage)}.safetensors").is_file():
        loop.start_from(*stage_weights(context.state, stage))
    model.train()
    with _attention(context.device):
        done = loop.run(seconds=seconds, steps=steps, should_stop=context.should_stop)
    with loop.averaged():
        tensors = {
            n: p.detach().float().cpu().contiguous()
            for n, p in model.named_parameters()
            if p.requires_grad
        }
        temporary = context.state / f".{stage_file(stage)}.tmp"
        save_file(tensors, temporary, metadata={"step": str(done)})
        temporary.replace(context.state / f"{stage_file(stage)}.safetensors")
    return done


def _attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a CPU the backward pass of torch's fused attention takes longer than plain products."""
    if device.type != "cpu":
        return contextlib.nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
