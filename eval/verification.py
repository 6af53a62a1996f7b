"""Whether a threshold on similarity tells same from different, with intervals over people.

Every generated picture is compared with every real photo. Pairs share pictures and people, so that
n pairs say far less than n independent ones: the errors are the jackknife's, which leaves out a
person with all pictures and photos, and the intervals are t intervals of the log odds. A rate of 0
or 1 has Wilson's interval of as many independent pairs as there are people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from eval.spread import one_way, quantile, wilson
from eval.stats import Summary
from eval.vectors import unit_rows

__all__ = ["Verification", "verification"]

Floats = NDArray[np.float64]

# Pairs of different people that a false accept rate must be made of to be told from its neighbours.
_LEAST_IMPOSTORS = 10
_LEAST_PEOPLE = 4
# Of more people than this, groups of them are left out: an error rate is a quantile of sorts, of
# whose spread one of many people says too little.
_MOST_GROUPS = 20


@dataclass(frozen=True, slots=True)
class Verification:
    """Error rates of telling people apart.

    Attributes:
        eer: equal error rate, in [0, 1], where the two rates cross between thresholds; lower is
            better.
        tar: false accept rate -> true accept rate at the loosest threshold that keeps to it; None
            at rates that fewer than 10 impostor pairs would make up.
        auc: area under the ROC curve.
        genuine, impostor: pairs of each kind.
    """

    eer: Summary
    tar: dict[float, Summary | None]
    auc: Summary
    genuine: int
    impostor: int


def verification(
    generated: ArrayLike,
    generated_labels: Sequence[str],
    real: ArrayLike,
    real_labels: Sequence[str],
    *,
    false_accept: Sequence[float] = (0.01, 0.1),
) -> Verification | None:
    """Equal error rate, true accept rate at false accept rates, area under the curve.

    Args:
        generated, real: features (N, D) and (M, D).
        generated_labels, real_labels: N and M people.
        false_accept: rates in (0, 1).

    Returns:
        None without a pair of one person, or of two people. No intervals with fewer than 4 people.

    Raises:
        ValueError: a rate out of range.
    """
    for rate in false_accept:
        if not 0 < rate < 1:
            raise ValueError(f"false accept rate is {rate}, allowed: between 0 and 1")
    made, known = np.asarray(generated_labels, dtype=str), np.asarray(real_labels, dtype=str)
    names, number = np.unique(np.concatenate([made, known]), return_inverse=True)
    rows, columns = number[: len(made)], number[len(made) :]
    same = rows[:, None] == columns[None, :]
    if not same.any() or same.all():
        return None
    cosine = unit_rows(generated) @ unit_rows(real).T
    pairs = _Pairs.of(cosine, rows, columns, same)
    rates = [rate for rate in false_accept if rate * len(pairs.impostor) >= _LEAST_IMPOSTORS]
    whole = pairs.measures(rates)
    present = np.intersect1d(rows, columns)
    left_out = _left_out(pairs, rates, present, len(names))
    n, people = len(pairs.genuine), len(present)
    if len(left_out):
        both = zip(whole, left_out.T, strict=True)
        eer, auc, *tar = (_summary(value, others, people, n) for value, others in both)
    else:
        eer, auc, *tar = (_bare(value, people, n) for value in whole)
    accepted = dict(zip(rates, tar, strict=True))
    return Verification(
        eer=eer,
        tar={rate: accepted.get(rate) for rate in false_accept},
        auc=auc,
        genuine=n,
        impostor=len(pairs.impostor),
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Similarities in rising order, with the two people of each pair."""

    genuine: Floats
    genuine_person: NDArray[np.int64]
    impostor: Floats
    impostor_people: NDArray[np.int64]
    thresholds: Floats

    @classmethod
    def of(
        cls,
        cosine: Floats,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        same: NDArray[np.bool_],
    ) -> _Pairs:
        """Of all generated with all real ones."""
        own, other = np.argsort(cosine[same]), np.argsort(cosine[~same])
        row, column = np.nonzero(~same)
        people = np.stack([rows[row], columns[column]], axis=1)[other]
        genuine, impostor = cosine[same][own], cosine[~same][other]
        person = rows[np.nonzero(same)[0]][own]
        thresholds = np.unique(np.concatenate([genuine, impostor]))
        return cls(genuine, person, impostor, people, thresholds)

    def without(self, group: NDArray[np.bool_]) -> _Pairs:
        """Without some people: `group` says of each number whether it goes."""
        kept = ~group[self.genuine_person]
        others = ~group[self.impostor_people].any(axis=1)
        return _Pairs(
            self.genuine[kept],
            self.genuine_person[kept],
            self.impostor[others],
            self.impostor_people[others],
            self.thresholds,
        )

    def measures(self, rates: Sequence[float]) -> list[float]:
        """Equal error rate, area, and the true accept rate at each rate."""
        found = [_equal_error(self.genuine, self.impostor, self.thresholds)]
        below = np.searchsorted(self.impostor, self.genuine, "left")
        to = np.searchsorted(self.impostor, self.genuine, "right")
        found.append(float((below + to).mean() / 2 / len(self.impostor)))
        accepted = [_true_accept(self.genuine, self.impostor, r) for r in rates]
        return [*found, *accepted]


def _left_out(
    pairs: _Pairs, rates: Sequence[float], present: NDArray[np.int64], count: int
) -> Floats:
    """(groups, measures) without each group; no rows where there are too few people."""
    if len(present) < _LEAST_PEOPLE:
        return np.empty((0, 0))
    shuffled = np.random.default_rng(0).permutation(present)
    found = []
    for part in np.array_split(shuffled, min(len(present), _MOST_GROUPS)):
        group = np.zeros(count, dtype=bool)
        group[part] = True
        rest = pairs.without(group)
        if not len(rest.genuine) or not len(rest.impostor):
            return np.empty((0, 0))
        found.append(rest.measures(rates))
    return np.array(found)


def _summary(value: float, left_out: Floats, people: int, n: int) -> Summary:
    groups = len(left_out)
    pseudo = groups * value - (groups - 1) * left_out
    error, df, skew = one_way(pseudo - pseudo.mean(), np.full(groups, 1 / groups))
    if error > 0 and 0 < value < 1:
        # Of the log odds, which have no ends to run over.
        odds = math.log(value / (1 - value))
        reach = quantile(0.975, df) * error / (value * (1 - value))
        low, high = (float(special.expit(odds + side * reach)) for side in (-1, 1))
    else:
        low, high = wilson(value, float(people))
    return Summary(value, n, people, low, high, error, df, skew, "people", nan=0)


def _bare(value: float, people: int, n: int) -> Summary:
    nan = math.nan
    return Summary(value, n, people, nan, nan, nan, 0.0, 0.0, "", nan=0)


def _equal_error(genuine: Floats, impostor: Floats, thresholds: Floats) -> float:
    """Where misses and false accepts cross on the polygon over falling thresholds.

    Args:
        genuine, impostor: in rising order.
        thresholds: in rising order, at least the values of both.
    """

    def rates(place: int) -> tuple[float, float]:
        if place == len(thresholds):  # above all values: everything is refused
            return 0.0, 1.0
        false = 1 - np.searchsorted(impostor, thresholds[place], "left") / len(impostor)
        return float(false), float(
            np.searchsorted(genuine, thresholds[place], "left") / len(genuine)
        )

    # The gap miss - false rises with the threshold: bisect for where it passes 0.
    low, high = 0, len(thresholds)
    while high - low > 1:
        middle = (low + high) // 2
        false, miss = rates(middle)
        low, high = (middle, high) if miss - false <= 0 else (low, middle)
    (false, miss), (next_false, next_miss) = rates(low), rates(high)
    before, after = false - miss, next_false - next_miss
    part = before / (before - after)
    return false + part * (next_false - false)


def _true_accept(genuine: Floats, impostor: Floats, rate: float) -> float:
    """Share of genuine pairs above the loosest threshold with at most `rate` false accepts."""
    allowed = math.floor(rate * len(impostor) + 1e-9)
    # The highest impostor that has to be refused: accepted is what is above it.
    refused = impostor[len(impostor) - 1 - allowed]
    return float(1 - np.searchsorted(genuine, refused, "right") / len(genuine))
