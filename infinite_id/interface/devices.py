"""Where the weights of a base lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from infinite_id.base import BaseModel
from infinite_id.cpu import ready_for_gpu

__all__ = ["keep_unet_on", "move"]


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
    parts = base.pipeline.components.values()
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
    except (RuntimeError, AssertionError, TypeError) as error:
        raise _unusable(device, error) from None
    ready_for_gpu(base.pipeline)
    base.offload()


def _unusable(where: Any, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return ValueError(f"device is {where!r}, which cannot be used here: {reason}")
