"""What makes a model quick on a CPU and changes nothing of its pictures but their rounding."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, bfloat16, channels_last, contiguous_format, float16, nn

__all__ = ["ready_for_cpu", "ready_for_gpu"]


class _Float32GroupNorm(nn.GroupNorm):
    """In half precision on a CPU torch's own is slow with channels last."""

    def forward(self, hidden: Tensor) -> Tensor:
        """As `nn.GroupNorm`, with sums in float32."""
        if hidden.device.type != "cpu" or hidden.dtype not in (bfloat16, float16):
            return super().forward(hidden)
        weight, bias = self.weight.float(), self.bias.float()
        normed = F.group_norm(hidden.float(), self.num_groups, weight, bias, self.eps)
        return normed.to(hidden.dtype)


def ready_for_cpu(pipeline: StableDiffusionXLPipeline) -> None:
    """Convolutions with channels last, group norms in float32, in the UNet and the VAE.

    Args:
        pipeline: changed in place; a pipeline that a user has loaded is not given here.
    """
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=channels_last)
        for module in network.modules():
            if type(module) is nn.GroupNorm and module.affine:
                # No weight moves: the class alone differs.
                module.__class__ = _Float32GroupNorm


def ready_for_gpu(pipeline: StableDiffusionXLPipeline) -> None:
    """Undoes the layout of `ready_for_cpu` in networks that were moved off the CPU.

    Args:
        pipeline: changed in place where `ready_for_cpu` changed it.
    """
    for network in (pipeline.unet, pipeline.vae):
        ours = any(isinstance(module, _Float32GroupNorm) for module in network.modules())
        if ours and network.device.type != "cpu":
            network.to(memory_format=contiguous_format)
