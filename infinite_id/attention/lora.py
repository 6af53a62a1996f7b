"""Low-rank updates of attention projections that only the identity stream's rows take.

    W x + up(down(x))   for to_q, to_k, to_v, to_out of every attention layer

Public FaceID weights come with such an update. Fused into the base, as other programs do, it would
change the text stream too; here the base stays what it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PROJECTIONS", "AttentionLora"]

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")


class AttentionLora(nn.Module):
    """Down and up matrices by layer name and projection.

    Args:
        weights: (layer name, projection) -> (down (rank, C_in), up (C_out, rank)).
    """

    def __init__(self, weights: Mapping[tuple[str, str], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._keys = {key: str(number) for number, key in enumerate(weights)}
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        for key, (down, up) in weights.items():
            self.down[self._keys[key]] = nn.Parameter(down.clone(), requires_grad=False)
            self.up[self._keys[key]] = nn.Parameter(up.clone(), requires_grad=False)

    def forward(self, layer: str, projection: str, hidden: Tensor) -> Tensor | None:
        """What is added to the projection of `hidden` (..., C_in); None for no such update."""
        key = self._keys.get((layer, projection))
        if key is None:
            return None
        return F.linear(F.linear(hidden, self.down[key]), self.up[key])

    def add(
        self,
        layer: str,
        projection: str,
        hidden: Tensor,
        out: Tensor,
        first: int,
        scale: float | Tensor,
    ) -> Tensor:
        """`out` (B, L, C_out) with `scale` times the update in the rows from `first` on.

        Without gradients `out` itself is changed.

        Args:
            layer: module name of the attention layer.
            projection: one of `PROJECTIONS`.
            hidden: the projection's input, (B, L, C_in).
            out: the projection's output, (B, L, C_out).
            first: rows before it stay as they are.
            scale: of the update; one number, or (B - first, 1, 1).
        """
        update = self(layer, projection, hidden[first:])
        if update is None:
            return out
        if torch.is_grad_enabled():
            return torch.cat([out[:first], out[first:] + scale * update])
        # In place: a copy of every projection costs a tenth of a step. `out` is the projection's
        # own result, which nobody else holds.
        out[first:].add_(update * scale if isinstance(scale, Tensor) or scale != 1 else update)
        return out
