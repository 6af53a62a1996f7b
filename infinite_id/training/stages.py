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
from infinite_id.training.checkpoints import LocalStore
from infinite_id.training.context import (
    Context,
    Stage,
    stage_file,
    stage_weights,
)
from infinite_id.training.denoisers import build_adapter, build_base, build_photomaker
from infinite_id.training.image_text import build_image_text
from infinite_id.training.loop import TrainingLoop

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

    It ends after `seconds`, at `steps` in all, or at the end of the context's budget of pictures,
    whichever comes first.

    Raises:
        ValueError: unknown stage.
        FileNotFoundError: the weights of an earlier stage are missing.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}, allowed: {', '.join(STAGES)}")
    workers = context.workers
    if workers is not None and workers.rank:
        # What the first one makes, latents and texts, the others read.
        workers.wait()
    model, loss, config = _build(context, stage)
    if workers is not None and not workers.rank:
        workers.wait()
    writes = workers is None or not workers.rank
    loop = TrainingLoop(
        model,
        loss,
        config,
        store=LocalStore(context.state / f"{stage_file(stage)}.pt"),
        signature={"stage": stage, "size": context.size},
        report=(lambda progress: context.report(stage, progress)) if writes else None,
        writer=writes,
        workers=workers,
    )
    if not loop.resume() and (context.state / f"{stage_file(stage)}.safetensors").is_file():
        loop.start_from(*stage_weights(context.state, stage))
    model.train()
    limits = [limit for limit in (steps, config.total_steps) if limit]
    with _attention(context.device):
        done = loop.run(
            seconds=seconds,
            steps=min(limits) if limits else None,
            should_stop=context.should_stop,
        )
    if writes:
        _write_weights(context, stage, loop)
    if workers is not None:
        # The next stage reads them.
        workers.wait()
    return done


def _write_weights(context: Context, stage: str, loop: TrainingLoop) -> None:
    with loop.averaged():
        tensors = {
            n: p.detach().float().cpu().contiguous()
            for n, p in loop.model.named_parameters()
            if p.requires_grad
        }
        temporary = context.state / f".{stage_file(stage)}.tmp"
        save_file(tensors, temporary, metadata={"step": str(loop.step)})
        temporary.replace(context.state / f"{stage_file(stage)}.safetensors")


def _build(context: Context, stage: str) -> Stage:
    kind, _, name = stage.partition(":")
    if kind == "vae":
        return build_vae_stage(context)
    if kind == "decoder":
        return build_decoder_stage(context)
    if kind in ("clip", "scorer"):
        return build_image_text(context, stage)
    if kind == "base":
        return build_base(context)
    if name == "photomaker":
        return build_photomaker(context)
    return build_adapter(context, name)


def _attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a CPU the backward pass of torch's fused attention takes longer than plain products."""
    if device.type != "cpu":
        return contextlib.nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
