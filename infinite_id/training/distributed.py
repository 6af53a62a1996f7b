"""Several workers on one adapter: gradients exchanged by DDP, a large frozen base split by FSDP."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from infinite_id.training.adapter import AdapterTraining

__all__ = ["Strategy", "distribute"]

Strategy = Literal["ddp", "fsdp"]


def distribute(model: AdapterTraining, strategy: Strategy, workers: int) -> nn.Module:
    """The module whose backward pass averages the adapter's gradients over all workers.

    Args:
        model: on this worker's device; "fsdp" splits its UNet in place, block by block.
        strategy: "ddp" keeps the whole base on every worker, "fsdp" a share of it. Only the frozen
            base is large: the adapter stays whole and its gradients go through DDP in both.
        workers: size of the process group, which must be there unless it is 1.

    Returns:
        The model itself for one worker, else a DDP module over it.
    """
    if workers == 1:
        return model
    if strategy == "fsdp":
        from torch.distributed.fsdp import fully_shard

        unet: Any = model.unet
        for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
            fully_shard(block)
    ignored = [name for name, _ in model.named_parameters() if name.startswith("unet.")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    return DistributedDataParallel(model)
