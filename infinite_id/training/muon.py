"""Muon (Jordan et al. 2024) for convolutions too: torch's own takes matrices alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


class Muon:
    """Nesterov momentum whose step is brought near an orthogonal matrix.

    Args:
        parameters: of two or more dimensions; all but the first are taken as one.
        rate: of learning, for a square matrix.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        self.parameters, self.rate = list(parameters), rate
        self.buffers = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, rate: float | None = None) -> None:
        """Moves the parameters that have a gradient; `rate` None: the one of the constructor."""
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            if parameter.grad is None:
                continue
            buffer.lerp_(parameter.grad, 1 - _MOMENTUM)
            ahead = parameter.grad.lerp(buffer, _MOMENTUM).flatten(1)
            scale = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
            move = orthogonal(ahead).view(parameter.shape)
            parameter.add_(move, alpha=-(self.rate if rate is None else rate) * scale)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there.

        Raises:
            ValueError: other parameters.
        """
        if [b.shape for b in state["buffers"]] != [b.shape for b in self.buffers]:
            raise ValueError("momentum of Muon is that of other parameters")
        for own, other in zip(self.buffers, state["buffers"], strict=True):
            own.copy_(other)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix (M, N) with singular values near 1, by Newton and Schulz in bfloat16."""
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.T if tall else x).float()
