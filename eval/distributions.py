"""Metrics of distributions: distances between sets of features.

By torchmetrics, whose import takes seconds: import this where one of them is wanted.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

__all__ = ["frechet_distance", "kernel_distance"]


class _Features(torch.nn.Module):
    """Lets torchmetrics read features where it expects pictures and a network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(real: ArrayLike, generated: ArrayLike) -> float:
    """Fréchet distance of two Gaussians fitted to features: FID, where they are Inception-v3's.

    Biased for few pictures: compare sets of equal size only, of several times D pictures.

    Args:
        real, generated: (N, D) and (M, D), at least 2 rows each.

    Raises:
        ValueError: widths differ, or fewer than 2 rows.
    """
    a, b = _pair(real, generated, least=2)
    metric = FrechetInceptionDistance(feature=_Features(a.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b, real=False)
    return float(metric.compute())


def kernel_distance(
    real: ArrayLike, generated: ArrayLike, *, subsets: int = 100, subset_size: int = 100
) -> tuple[float, float]:
    """Mean and deviation of the squared maximum mean discrepancy over random subsets: KID.

    Polynomial kernel `(x . y / D + 1) ^ 3`, unbiased, so that it suits small sets.

    Args:
        real, generated: (N, D) and (M, D), more than `subset_size` rows each are wanted; with
            fewer, subsets are as large as the smaller set.
        subsets: drawn, with a fixed seed.
        subset_size: rows of each.

    Raises:
        ValueError: widths differ, or fewer than 2 rows.
    """
    a, b = _pair(real, generated, least=2)
    size = min(subset_size, len(a), len(b))
    metric = KernelInceptionDistance(
        feature=_Features(a.shape[1]), subsets=subsets, subset_size=size
    )
    metric.set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def _pair(a: ArrayLike, b: ArrayLike, least: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"features have shapes {first.shape} and {second.shape}, allowed: (N, D) and (M, D)"
        )
    if min(len(first), len(second)) < least:
        raise ValueError(
            f"got {len(first)} and {len(second)} rows, allowed: {least} or more of each"
        )
    return torch.from_numpy(first), torch.from_numpy(second)
