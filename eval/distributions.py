"""Metrics of distributions: distances between sets of features, and how well people are verified.

By torchmetrics, whose import takes seconds: import this where one of them is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torchmetrics.functional.classification import binary_auroc, binary_roc
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

__all__ = ["Verification", "frechet_distance", "kernel_distance", "verification"]


# Pairs of different people that a false accept rate must be made of to be told from its neighbours.
_LEAST_IMPOSTORS = 10


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a threshold on similarity tells same from different.

    Attributes:
        eer: equal error rate, in [0, 1], where the two rates cross between thresholds; lower is
            better.
        tar: false accept rate -> true accept rate at the loosest threshold that keeps to it; None
            at rates that fewer than 10 impostor pairs would make up.
        auc: area under the ROC curve.
        genuine, impostor: pairs of each kind.
    """

    eer: float
    tar: dict[float, float | None]
    auc: float
    genuine: int
    impostor: int


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


def verification(
    genuine: ArrayLike, impostor: ArrayLike, *, false_accept: Sequence[float] = (0.01, 0.1)
) -> Verification:
    """Equal error rate, true accept rate at false accept rates, area under the curve.

    Args:
        genuine: (G,) similarities of pairs of one person.
        impostor: (I,) similarities of pairs of two people.
        false_accept: rates in (0, 1).

    Raises:
        ValueError: no genuine or no impostor pair, or a rate out of range.
    """
    same, different = np.asarray(genuine, np.float64), np.asarray(impostor, np.float64)
    if not len(same) or not len(different):
        raise ValueError(
            f"got {len(same)} genuine and {len(different)} impostor pairs, allowed: 1 or more each"
        )
    for rate in false_accept:
        if not 0 < rate < 1:
            raise ValueError(f"false accept rate is {rate}, allowed: between 0 and 1")
    values = np.concatenate([same, different])
    # Ranks, because torchmetrics squashes values outside [0, 1] until close ones become equal.
    _, rank = np.unique(values, return_inverse=True)
    scores = torch.from_numpy(rank / max(1, rank.max())).double()
    target = torch.cat([torch.ones(len(same)), torch.zeros(len(different))]).long()
    false_rate, true_rate, _ = (part.numpy() for part in binary_roc(scores, target))
    miss_rate = 1 - true_rate
    return Verification(
        eer=_crossing(false_rate, miss_rate),
        tar={
            rate: float(true_rate[false_rate <= rate].max())
            if rate * len(different) >= _LEAST_IMPOSTORS
            else None
            for rate in false_accept
        },
        auc=float(binary_auroc(scores, target)),
        genuine=len(same),
        impostor=len(different),
    )


def _crossing(rising: NDArray[np.float64], falling: NDArray[np.float64]) -> float:
    """Where two polygons over the same thresholds meet: one rises from 0, one falls to 0."""
    gap = falling - rising
    after = int(np.argmax(gap <= 0))
    if after == 0 or gap[after] == 0:
        return float(rising[after])
    part = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(rising[after - 1] + part * (rising[after] - rising[after - 1]))


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
