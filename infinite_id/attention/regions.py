"""Several people in one row: each person's tokens act in their own region alone (docs/groups.md).

    out(q) = sum over people p of  m_p(q) Attn(q, K'_p, V'_p)

m_p is the person's map, averaged over the pixels of the query. Each person has a softmax of their
own, as diffusers' `ip_adapter_masks` have it. Where maps overlap they are divided by their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from infinite_id.regions import Region, region_map

__all__ = ["GroupTokens", "RegionRows", "group_maps", "region_rows"]


@dataclass(frozen=True, slots=True)
class GroupTokens:
    """What one request of several people sees.

    Attributes:
        tokens: identity tokens of each person, P tensors (T, D), T may differ.
        regions: theirs, P.
    """

    tokens: tuple[Tensor, ...]
    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class RegionRows:
    """Pairs of an identity row and a person whom it shows.

    Attributes:
        rows: int64 (pairs,): the identity row of each pair, ascending.
        maps: number of queries of a layer -> (pairs, queries, 1) in [0, 1].
    """

    rows: Tensor
    maps: Mapping[int, Tensor]

    def joined(self, seen: Tensor, like: Tensor) -> Tensor:
        """Outputs of the pairs (pairs, L, C), each in its region, as `like` (rows, L, C)."""
        weighted = seen * self.maps[seen.shape[1]].to(seen.dtype)
        return torch.zeros_like(like).index_add(0, self.rows, weighted)

    def without(self, count: int) -> RegionRows:
        """Without the first `count` rows, each of which has one pair."""
        maps = {queries: one[count:] for queries, one in self.maps.items()}
        return replace(self, rows=self.rows[count:] - count, maps=maps)


def group_maps(regions: Sequence[Region], height: int, width: int) -> Tensor:
    """float32 (P, height, width): the maps of a group's people, whose sum is nowhere above 1."""
    maps = torch.from_numpy(np.stack([region_map(one, height, width) for one in regions]))
    return maps / maps.sum(dim=0, keepdim=True).clamp(min=1.0)


def region_rows(
    rows: Sequence[int],
    maps: Sequence[Tensor | None],
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
) -> RegionRows:
    """Pairs for layers of those sizes.

    Args:
        rows: the identity row of each pair.
        maps: (H, W) of each pair; None: the whole picture.
        sizes: (h, w) of the layers' queries.
        device: of what comes back.
    """
    found: dict[int, Tensor] = {}
    for h, w in sizes:
        parts = [
            torch.ones(h * w) if one is None else F.adaptive_avg_pool2d(one[None], (h, w)).flatten()
            for one in maps
        ]
        found[h * w] = torch.stack(parts)[:, :, None].to(device)
    return RegionRows(torch.tensor(rows, dtype=torch.int64, device=device), found)
