"""Several workers on one adapter: gradients exchanged by DDP, a large frozen base split by FSDP."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from infinite_id.training.adapter import AdapterTraining

__all__ = ["Strategy", "distribute", "exchange", "split_parts"]

Strategy = Literal["ddp", "fsdp"]


def distribute(model: AdapterTraining, strategy: Strategy, workers: int) -> nn.Module:
    """The module whose backward pass averages the adapter's gradients over all workers.

    Args:
        model: on this worker's device; "fsdp" splits its UNet in place, block by block.
        strategy: "ddp" keeps the whole base on every worker, "fsdp" a share of it, and gathers its
            parts one after the other while it computes. Only the frozen base is large: the adapter
            stays whole and its gradients go through DDP in both.
        workers: size of the process group, which must be there unless it is 1.

    Returns:
        The model itself for one worker, else a DDP module over it.
    """
    if workers == 1:
        return model
    if strategy == "fsdp":
        from torch.distributed.fsdp import fully_shard

        parts, whole = split_parts(model)
        for part in parts:
            # By default a part that no other one wraps stays whole after its forward pass.
            fully_shard(part, reshard_after_forward=True, ignored_params=whole)
    ignored = [name for name, _ in model.named_parameters() if name.startswith("unet.")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def exchange(module: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Where a part of a batch is computed: gradients are exchanged with its `last` part alone.

    Args:
        module: of `distribute`.
        last: the part is the step's last one.
    """
    if last or not isinstance(module, DistributedDataParallel):
        return contextlib.nullcontext()
    return module.no_sync()


def split_parts(model: AdapterTraining) -> tuple[list[nn.Module], set[nn.Parameter]]:
    """The parts of the UNet that "fsdp" splits, inner ones first, and parameters that stay whole.

    Keys and values of the text are computed ahead of the parts that hold them, which gather only
    while they compute themselves.
    """
    unet: Any = model.unet
    whole = {
        parameter
        for name in model.layers
        for part in ("to_k", "to_v")
        for parameter in unet.get_submodule(f"{name}.{part}").parameters()
    }
    inner = [m for m in unet.modules() if isinstance(m, (BasicTransformerBlock, ResnetBlock2D))]
    return [*inner, *unet.down_blocks, unet.mid_block, *unet.up_blocks], whole
