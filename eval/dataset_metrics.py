"""Metrics of whole sets of pictures, for the use of generated people as data.

All of them read features (N, D), one row a picture, so that each can be computed with any network:
FaceNet for identity, an image-text model for variety. The network is the caller's to name beside
the number: a Fréchet distance over FaceNet features is not the FID of the literature, which is
taken over Inception-v3. Those that need torchmetrics are in `eval.distributions`, error rates of
telling people apart in `eval.verification`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.stats import Summary, mean_of_pairs, summarise
from eval.vectors import unit_rows

__all__ = [
    "ClassStructure",
    "class_structure",
    "copy_paste_score",
    "seed_diversity",
]


@dataclass(frozen=True, slots=True)
class ClassStructure:
    """How people lie in feature space; all values are cosine distances in [0, 2].

    Attributes:
        separation: mean distance between two people's centres, each pair once; higher: people
            differ more. Its interval leaves out a person with all pairs.
        nearest: mean distance of a centre to the nearest other one; low: doubles.
        consistency: mean distance between two pictures of a person, over people; lower: people
            are kept. It does not depend on how many pictures a person has; NaN where nobody has
            two.
        classes: people with at least one picture.
        singles: people with one picture only: they say nothing of consistency.
    """

    separation: Summary
    nearest: float
    consistency: Summary
    classes: int
    singles: int


def class_structure(features: ArrayLike, labels: Sequence[str]) -> ClassStructure:
    """Separation between people, consistency within them.

    Cosine throughout: for unit rows u, the mean similarity of all pairs within a set of n is
    `(|sum u|^2 - n) / (n (n - 1))`, so that no pair is formed. Centres are compared in blocks:
    memory does not grow with the square of the people.

    Args:
        features: (N, D).
        labels: N people.

    Raises:
        ValueError: lengths differ, or fewer than 2 people.
    """
    unit = unit_rows(features)
    names, person = np.unique(np.asarray(labels), return_inverse=True)
    if len(person) != len(unit):
        raise ValueError(f"got {len(unit)} features and {len(person)} labels, allowed: equal")
    counts = np.bincount(person)
    classes = len(counts)
    if classes < 2:
        raise ValueError(f"features are of {classes} people, at least 2 are needed")
    sums = np.zeros((classes, unit.shape[1]))
    np.add.at(sums, person, unit)
    centres = unit_rows(sums)
    several = counts > 1
    pairs = counts[several] * (counts[several] - 1.0)
    within = (np.square(sums[several]).sum(axis=1) - counts[several]) / pairs
    nearest = []
    for start in range(0, classes, 1024):
        block = centres[start : start + 1024] @ centres.T
        rows = np.arange(len(block))
        block[rows, start + rows] = -np.inf
        nearest.append(block.max(axis=1))
    return ClassStructure(
        separation=mean_of_pairs(centres).distance(),
        nearest=float(1 - np.concatenate(nearest).mean()),
        consistency=summarise(1 - within, names[several].astype(str)),
        classes=classes,
        singles=int((~several).sum()),
    )


def seed_diversity(features: ArrayLike, groups: Sequence[str]) -> dict[str, float]:
    """group -> mean cosine distance between two of its pictures; groups of one are left out.

    Args:
        features: (N, D).
        groups: N names of what stays the same between seeds: person, prompt, style and method.
    """
    unit = unit_rows(features)
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
    g, t, r = unit_rows(generated), unit_rows(target), unit_rows(reference)
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
