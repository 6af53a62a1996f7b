"""Several processes of one thread each that train one model: on two cores faster than two threads.

Gradients are averaged through torch.distributed (gloo) on the loopback interface.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Workers", "join_workers", "start_workers", "started_rank"]

_PORT = "INFINITE_ID_TRAINING_PORT"
_RANK = "INFINITE_ID_TRAINING_RANK"
_PATIENCE = timedelta(minutes=30)


class Workers:
    """The processes that train together, as one of them sees it.

    Args:
        rank: of this one; 0 writes checkpoints and weights.
        count: of all.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._flat = torch.zeros(0)

    def any(self, value: bool) -> bool:
        """Whether one of them says so; all get the same answer."""
        flag = torch.tensor([float(value)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replaces each gradient by the mean of all workers'."""
        size = sum(g.numel() for g in gradients)
        if len(self._flat) != size:
            self._flat = torch.empty(size)
        parts = self._flat.split([g.numel() for g in gradients])
        for part, gradient in zip(parts, gradients, strict=True):
            part.view(gradient.shape).copy_(gradient)
        dist.all_reduce(self._flat)
        self._flat /= self.count
        for part, gradient in zip(parts, gradients, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def wait(self) -> None:
        """Until all are here."""
        dist.barrier()


def start_workers(count: int, arguments: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """Starts all workers but the first, this process, as the same command; `join_workers` follows.

    Args:
        count: of all workers.
        arguments: of `python`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ[_PORT] = str(free.getsockname()[1])
    return [
        subprocess.Popen(  # noqa: S603 - this very program, with the arguments that it has
            [sys.executable, *arguments], env={**os.environ, _RANK: str(rank)}
        )
        for rank in range(1, count)
    ]


def started_rank() -> int | None:
    """Of a process that `start_workers` started; None: this is none."""
    rank = os.environ.get(_RANK)
    return None if rank is None else int(rank)


def join_workers(count: int) -> Workers:
    """Waits for the others.

    Raises:
        RuntimeError: they do not come.
    """
    rank = started_rank() or 0
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{os.environ[_PORT]}",
        rank=rank,
        world_size=count,
        timeout=_PATIENCE,
    )
    return Workers(rank, count)
