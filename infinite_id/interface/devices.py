"""Where the weights of a base lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from infinite_id.base import BaseModel
from infinite_id.cpu import ready_for_gpu

__all__ = ["OnDevice", "keep_unet_on", "move"]


def move(base: BaseModel, where: Sequence[str | torch.device | torch.dtype]) -> None:
    """Moves all parts to a device and, or, a dtype.

    Raises:
        ValueError: the device cannot be used.
    """
    for one in where:
        if not isinstance(one, str | int | torch.device | torch.dtype):
            raise ValueError(f"device is {one!r}, allowed: a torch device, or a dtype")
    if "meta" in map(str, where):
        raise ValueError("device is 'meta', allowed: one that holds weights")
    to: Any = torch.nn.Module.to
    parts = [*base.pipeline.components.values(), base.controlnet]
    try:
        for part in parts if where else ():
            if isinstance(part, torch.nn.Module):
                # diffusers' own `to` warns of an empty list of modules that keep their dtype.
                to(part, *where)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise _unusable(where, error) from None
    ready_for_gpu(base.pipeline)


def keep_unet_on(base: BaseModel, device: str | torch.device) -> None:
    """Only the UNet is on that device from now on, the other parts while they are needed.

    Raises:
        ValueError: the device cannot be used.
    """
    try:
        base.unet.to(torch.device(device))
        if base.controlnet is not None:
            base.controlnet.to(torch.device(device))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError, TypeError) as error:
        raise _unusable(device, error) from None
    ready_for_gpu(base.pipeline)
    base.offload()


def _unusable(where: Any, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return ValueError(f"device is {where!r}, which cannot be used here: {reason}")


class OnDevice:
    """Something over a base that lies somewhere, and can be moved."""

    base: BaseModel

    def to(self, *where: Any) -> Any:
        """Moves all weights."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Of the UNet."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet."""
        return self.base.dtype

    def enable_model_cpu_offload(self, device: str | torch.device = "cuda") -> None:
        """Keeps the UNet on `device`, and text encoders, VAE and face networks on the CPU while
        they are not needed.

        Raises:
            ValueError: there is no such device.
        """
        keep_unet_on(self.base, device)
        self.to()

    def enable_vae_slicing(self) -> None:
        """Decodes one picture at a time, which needs the least memory."""
        self.base.decode_slice = 1

    def disable_vae_slicing(self) -> None:
        """Decodes eight pictures at a time."""
        self.base.decode_slice = 8

    def compile(self, **options: Any) -> None:
        """Compiles the UNet, at its first call of each batch shape; options of torch.compile."""
        self.base.unet.compile(**{"fullgraph": True, **options})
