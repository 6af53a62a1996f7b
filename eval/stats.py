"""Means with intervals over people, and paired differences between methods.

Pictures of one person resemble each other, so that n pictures of few people say less than n
independent ones would. The unit that is resampled is therefore the PERSON (a cluster bootstrap):
with sums S_k and counts C_k of person k, a resample of people b has the mean
`sum_k S_b(k) / sum_k C_b(k)`, and the interval lies between its percentiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["Difference", "Summary", "paired_difference", "summarise"]

RESAMPLES = 2000
# Above this many people the bootstrap equals its normal limit and costs seconds a cell.
NORMAL_FROM = 5000


@dataclass(frozen=True, slots=True)
class Summary:
    """A mean over pictures.

    Attributes:
        mean: over the values that are numbers; NaN where there is none.
        n: values that are numbers.
        nan: values that are not (unscorable pictures).
        identities: people among the n values.
        low, high: ends of the interval; NaN with fewer than two people.
    """

    mean: float
    n: int
    nan: int
    identities: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of `method - reference` over pairs of pictures made from equal requests.

    Attributes:
        mean: NaN where there is no pair.
        n: pairs in which both values are numbers.
        unpaired: the method's pictures without a usable counterpart (missing, or NaN in either).
        identities: people among the pairs.
        low, high: ends of the interval; NaN with fewer than two people.
    """

    mean: float
    n: int
    unpaired: int
    identities: int
    low: float
    high: float


def summarise(
    values: ArrayLike,
    identities: Sequence[str] | NDArray[np.str_],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Summary:
    """Mean and bootstrap interval over people.

    Args:
        values: (N,) numbers; NaN means unscorable.
        identities: (N,) the person in each picture.
        level: coverage of the interval, in (0, 1).
        seed: of the resampling; equal input and seed give equal output.

    Raises:
        ValueError: lengths differ, or `level` is out of range.
    """
    numbers, people = _check(values, identities, level)
    valid = ~np.isnan(numbers)
    n = int(valid.sum())
    mean, low, high, clusters = _interval(numbers[valid], people[valid], level, seed)
    return Summary(mean, n, len(numbers) - n, clusters, low, high)


def paired_difference(
    values: ArrayLike,
    reference: ArrayLike,
    identities: Sequence[str] | NDArray[np.str_],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Mean of `values - reference` and its bootstrap interval over people.

    Args:
        values: (N,) a method's numbers.
        reference: (N,) the reference method's for the same person, text, style and seed; NaN
            where there is none.
        identities: (N,) the person in each pair.
        level, seed: as in `summarise`.

    Raises:
        ValueError: lengths differ, or `level` is out of range.
    """
    numbers, people = _check(values, identities, level)
    others, _ = _check(reference, identities, level)
    difference = numbers - others
    valid = ~np.isnan(difference)
    n = int(valid.sum())
    mean, low, high, clusters = _interval(difference[valid], people[valid], level, seed)
    return Difference(mean, n, len(numbers) - n, clusters, low, high)


def _check(
    values: ArrayLike, identities: Sequence[str] | NDArray[np.str_], level: float
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    numbers = np.asarray(values, dtype=np.float64)
    people = np.asarray(identities)
    if numbers.ndim != 1 or numbers.shape != people.shape:
        raise ValueError(
            f"values have shape {numbers.shape} and identities {people.shape}, allowed: "
            "twice the same (N,)"
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, allowed: between 0 and 1")
    return numbers, people


def _interval(
    numbers: NDArray[np.float64], people: NDArray[np.str_], level: float, seed: int
) -> tuple[float, float, float, int]:
    """(mean, low, high, people) of values without NaN."""
    if not len(numbers):
        return np.nan, np.nan, np.nan, 0
    names, person = np.unique(people, return_inverse=True)
    sums = np.bincount(person, weights=numbers)
    counts = np.bincount(person).astype(np.float64)
    mean = float(numbers.mean())
    clusters = len(names)
    if clusters < 2:
        return mean, np.nan, np.nan, clusters
    if clusters > NORMAL_FROM:
        residual = sums - mean * counts
        error = np.sqrt(clusters / (clusters - 1) * np.square(residual).sum()) / counts.sum()
        reach = stats.norm.ppf(0.5 + level / 2) * error
        return mean, float(mean - reach), float(mean + reach), clusters
    result = stats.bootstrap(
        (sums, counts),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // clusters),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return mean, float(low), float(high), clusters


def _ratio(
    sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = sums.sum(axis=axis) / counts.sum(axis=axis)
    return ratio
