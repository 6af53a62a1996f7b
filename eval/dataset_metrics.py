"""Metrics of whole sets of pictures, for the use of generated people as data.

All of them read features (N, D), one row a picture, so that each can be computed with any network:
FaceNet for identity, an image-text model for variety. The network is the caller's to name beside
the number: a Fréchet distance over FaceNet features is not the FID of the literature, which is
taken over Inception-v3.
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

__all__ = [
    "ClassStructure",
    "Verification",
    "class_structure",
    "copy_paste_score",
    "frechet_distance",
    "kernel_distance",
    "seed_diversity",
    "verification",
    "verification_pairs",
]


@dataclass(frozen=True, slots=True)
class ClassStructure:
    """How people lie in feature space; all values are cosine distances in [0, 2].

    Attributes:
        separation: mean distance between two people's centres; higher: people differ more.
        nearest: mean distance of a centre to the nearest other one; low: doubles.
        consistency: mean distance of a picture to its person's centre; lower: people are kept.
        variation: mean distance between two pictures of a person; higher: pictures differ more.
        classes: people with at least one picture.
        singles: people with one picture only: they say nothing of variation.
    """

    separation: float
    nearest: float
    consistency: float
    variation: float
    classes: int
    singles: int


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a threshold on similarity tells same from different.

    Attributes:
        eer: equal error rate, in [0, 1]; lower is better.
        tar: false accept rate -> true accept rate at the loosest threshold that keeps to it.
        auc: area under the ROC curve.
        genuine, impostor: pairs of each kind.
    """

    eer: float
    tar: dict[float, float]
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


def class_structure(features: ArrayLike, labels: Sequence[str]) -> ClassStructure:
    """Separation between people, consistency and variation within them.

    Cosine throughout: for unit rows u, the mean similarity of all pairs within a set of n is
    `(|sum u|^2 - n) / (n (n - 1))`, so that no pair is formed. Centres are compared in blocks:
    memory does not grow with the square of the people.

    Args:
        features: (N, D).
        labels: N people.

    Raises:
        ValueError: lengths differ, or fewer than 2 people.
    """
    unit = _unit(features)
    _, person = np.unique(np.asarray(labels), return_inverse=True)
    if len(person) != len(unit):
        raise ValueError(f"got {len(unit)} features and {len(person)} labels, allowed: equal")
    counts = np.bincount(person)
    classes = len(counts)
    if classes < 2:
        raise ValueError(f"features are of {classes} people, at least 2 are needed")
    sums = np.zeros((classes, unit.shape[1]))
    np.add.at(sums, person, unit)
    centres = _unit(sums)
    similarity = np.einsum("nd,nd->n", unit, centres[person])
    several = counts > 1
    pairs = counts[several] * (counts[several] - 1.0)
    within = (np.square(sums[several]).sum(axis=1) - counts[several]) / pairs
    total = (np.square(centres.sum(axis=0)).sum() - classes) / (classes * (classes - 1.0))
    nearest = []
    for start in range(0, classes, 1024):
        block = centres[start : start + 1024] @ centres.T
        rows = np.arange(len(block))
        block[rows, start + rows] = -np.inf
        nearest.append(block.max(axis=1))
    return ClassStructure(
        separation=float(1 - total),
        nearest=float(1 - np.concatenate(nearest).mean()),
        consistency=float(1 - similarity.mean()),
        variation=float(1 - within.mean()) if several.any() else float("nan"),
        classes=classes,
        singles=int((~several).sum()),
    )


def verification_pairs(
    generated: ArrayLike,
    generated_labels: Sequence[str],
    real: ArrayLike,
    real_labels: Sequence[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(genuine, impostor) cosines of every generated picture with every held-out real one.

    Args:
        generated, real: (N, D) and (M, D).
        generated_labels, real_labels: N and M people.
    """
    cosine = _unit(generated) @ _unit(real).T
    same = np.asarray(generated_labels)[:, None] == np.asarray(real_labels)[None, :]
    return cosine[same], cosine[~same]


def verification(
    genuine: ArrayLike, impostor: ArrayLike, *, false_accept: Sequence[float] = (0.01, 0.1)
) -> Verification:
    """Equal error rate, true accept rate at false accept rates, area under the curve.

    Args:
        genuine: (G,) similarities of pairs of one person.
        impostor: (I,) similarities of pairs of two people.
        false_accept: rates in (0, 1); a rate below 1 / I cannot be told from 0.

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
    crossing = int(np.argmin(np.abs(false_rate - miss_rate)))
    return Verification(
        eer=float((false_rate[crossing] + miss_rate[crossing]) / 2),
        tar={rate: float(true_rate[false_rate <= rate].max()) for rate in false_accept},
        auc=float(binary_auroc(scores, target)),
        genuine=len(same),
        impostor=len(different),
    )


def seed_diversity(features: ArrayLike, groups: Sequence[str]) -> dict[str, float]:
    """group -> mean cosine distance between two of its pictures; groups of one are left out.

    Args:
        features: (N, D).
        groups: N names of what stays the same between seeds: person, prompt, style and method.
    """
    unit = _unit(features)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(group)
    sums = np.zeros((len(names), unit.shape[1]))
    np.add.at(sums, group, unit)
    squares = np.square(sums).sum(axis=1)
    return {
        str(names[k]): float(1 - (squares[k] - counts[k]) / (counts[k] * (counts[k] - 1.0)))
        for k in np.flatnonzero(counts > 1)
    }


def copy_paste_score(
    generated: ArrayLike, target: ArrayLike, reference: ArrayLike
) -> NDArray[np.float64]:
    """(N,) in [-1, 1]: 1 where the picture repeats the reference, -1 where it equals the target.

    MultiID-Bench's `(d(g, t) - d(g, r)) / d(t, r)` with the angle between features as d; the
    target is another real photo of the same person. NaN where target and reference coincide.

    Args:
        generated, target, reference: (N, D) each.

    Raises:
        ValueError: shapes differ.
    """
    g, t, r = _unit(generated), _unit(target), _unit(reference)
    if not g.shape == t.shape == r.shape:
        raise ValueError(f"shapes are {g.shape}, {t.shape}, {r.shape}, allowed: equal (N, D)")
    base = _angle(t, r)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (_angle(g, t) - _angle(g, r)) / base
    return np.where(base > 1e-6, score, np.nan)


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    # arctan2 keeps its precision near 0, where arccos of a rounded cosine loses it.
    angle: NDArray[np.float64] = 2 * np.arctan2(
        np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)
    )
    return angle


def _unit(features: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"features have shape {rows.shape}, allowed: (N, D)")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.maximum(norms, np.finfo(np.float64).tiny)
    return unit


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
