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
        strategy: "ddp" keeps the whole base on every worker, "fsdp" a share of it, and of its
            blocks one after the other while it computes. Only the frozen base is large: the
            adapter stays whole and its gradients go through DDP in both.
        workers: size of the process group, which must be there unless it is 1.

    Returns:
        The model itself for one worker, else a DDP module over it.
    """
    if workers == 1:
        return model
    if strategy == "fsdp":
        from torch.distributed.fsdp import fully_shard

        unet: Any = model.unet
        # Keys and values of the text are computed ahead of the blocks, which gather only what they
        # hold themselves.
        text = {
            parameter
            for name in model.layers
            for part in ("to_k", "to_v")
            for parameter in unet.get_submodule(f"{name}.{part}").parameters()
        }
        for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
            # By default a block that no other one wraps stays whole after its forward pass.
            fully_shard(block, reshard_after_forward=True, ignored_params=text)
    ignored = [name for name, _ in model.named_parameters() if name.startswith("unet.")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    return DistributedDataParallel(model)
