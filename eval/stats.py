"""Means and paired differences with intervals over people and, where they vary, over prompts.

Pictures of one person resemble each other, and so do pictures of one prompt: n pictures say less
than n independent ones (`eval.spread`). Rates have Wilson's interval with the number of
independent pictures that the spread implies. `python -m benchmarks.run coverage` shows what all of
them cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from eval.spread import hall, interval, one_way, quantile, rate_interval, sums_of, two_way, wilson
from eval.units import Units

__all__ = [
    "Difference",
    "Estimate",
    "Summary",
    "holm",
    "independent_difference",
    "mean_of_pairs",
    "paired_difference",
    "summarise",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and how well it is known.

    Attributes:
        mean: NaN where there is no value.
        n: distinct pictures (or pairs of them) among the values that are numbers.
        identities: people among them.
        low, high: ends of the 95 % interval; NaN where the values carry none.
        error: standard error; NaN where there is none.
        df: its degrees of freedom; 0 where there is none.
        skew: skewness of the mean, that the interval is corrected for.
        over: what the interval generalises over, in words; empty without an interval.
    """

    mean: float
    n: int
    identities: int
    low: float
    high: float
    error: float
    df: float
    skew: float
    over: str

    def gain_at_most(self, tail: float, sign: int = 1) -> float:
        """The upper end of a one-sided interval of `sign * mean`; NaN without an interval.

        Args:
            tail: chance that the truth lies above it.
            sign: -1 where less is better.
        """
        reach = quantile(1 - tail, self.df)
        # Of the plain t and the one corrected for skew the more careful: false alarms count.
        return sign * self.mean + self.error * max(reach, -hall(sign * self.skew, -reach))

    def p_value(self) -> float:
        """Two-sided, of the mean being 0; NaN without an interval, 1 where all values are 0."""
        if not self.df:
            return math.nan
        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        t, a = self.mean / self.error, self.skew
        transformed = t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6
        # Far in the tails an estimated skew alarms too often: the more careful of both counts.
        return float(2 * special.stdtr(self.df, -min(abs(t), abs(transformed))))


@dataclass(frozen=True, slots=True)
class Summary(Estimate):
    """A mean over pictures.

    Attributes:
        nan: values that are not numbers (unscorable pictures).
    """

    nan: int

    def distance(self) -> Summary:
        """Of 1 - value, where this is of cosines."""
        fields = {name: getattr(self, name) for name in Summary.__dataclass_fields__}
        changed = {"mean": 1 - self.mean, "low": 1 - self.high, "high": 1 - self.low}
        return Summary(**{**fields, **changed, "skew": -self.skew})


@dataclass(frozen=True, slots=True)
class Difference(Estimate):
    """Mean of `method - reference` over pairs of pictures made from equal requests.

    Attributes:
        unpaired: the method's pictures without a usable counterpart (missing, or NaN in either).
        p: two-sided p-value, not adjusted.
        marked: whether it stands out among all differences of its table (see `holm`).
    """

    unpaired: int
    p: float
    marked: bool = False


def summarise(
    values: ArrayLike,
    identities: Sequence[str] | NDArray[np.str_],
    units: Units | None = None,
    *,
    pictures: ArrayLike | None = None,
    rate: bool = False,
) -> Summary:
    """Mean and 95 % interval.

    Args:
        values: (N,) numbers; NaN means unscorable.
        identities: (N,) the person in each picture.
        units: what varies besides the people, (N,) entries; None: nothing.
        pictures: (N,) equal where two values are of one and the same picture; None: all distinct.
        rate: the values are 0 and 1: Wilson's interval.

    Raises:
        ValueError: lengths differ, or a rate's value is neither 0 nor 1.
    """
    numbers, people = _check(values, identities, units)
    valid = ~np.isnan(numbers)
    found = _estimate(numbers, people, units, valid, pictures, rate)
    return Summary(**found, nan=int((~valid).sum()))


def paired_difference(
    values: ArrayLike,
    reference: ArrayLike,
    identities: Sequence[str] | NDArray[np.str_],
    units: Units | None = None,
    *,
    pictures: ArrayLike | None = None,
    rate: bool = False,
) -> Difference:
    """Mean of `values - reference` and its 95 % interval.

    Args:
        values: (N,) a method's numbers.
        reference: (N,) the reference method's for the same person, text, style and seed; NaN
            where there is none.
        identities, units: as in `summarise`.
        pictures: (N,) equal where two pairs are of the same two pictures; None: all distinct.
        rate: both are rates: where no pair differs the interval is that of a rate of 0.

    Raises:
        ValueError: lengths differ.
    """
    numbers, people = _check(values, identities, units)
    others, _ = _check(reference, identities, units)
    difference = numbers - others
    valid = ~np.isnan(difference)
    found = _estimate(difference, people, units, valid, pictures, rate=False)
    if rate and found["df"] and found["error"] == 0 and found["mean"] == 0:
        _, reach = wilson(0.0, float(min(found["identities"], found["n"])))
        found |= {"low": -reach, "high": reach}
    result = Difference(**found, unpaired=int((~valid).sum()), p=math.nan)
    return _replace(result, p=result.p_value())


def independent_difference(first: Summary, second: Summary) -> Difference:
    """Mean of `second - first` where nothing is known but two summaries: Welch's interval."""
    mean = second.mean - first.mean
    error, df, low, high = math.nan, 0.0, math.nan, math.nan
    if first.df and second.df:
        error = math.hypot(first.error, second.error)
        below = first.error**4 / first.df + second.error**4 / second.df
        df = error**4 / below if below else min(first.df, second.df)
        low, high = interval(mean, error, df, 0.0)
    people = min(first.identities, second.identities)
    over = second.over if df else ""
    found = Difference(mean, second.n, people, low, high, error, df, 0.0, over, 0, math.nan)
    return _replace(found, p=found.p_value())


def holm(
    differences: Sequence[Difference], *, level: float = 0.05, least_people: int = 20
) -> list[Difference]:
    """The differences of one table, those marked that stand out among all of them.

    Holm's step-down procedure: the chance that any mark is wrong is at most `level`. Differences
    of fewer people than `least_people` are never marked, but count in the family.
    """
    known = [n for n, one in enumerate(differences) if not math.isnan(one.p)]
    order = sorted(known, key=lambda n: differences[n].p)
    marked: set[int] = set()
    for rank, number in enumerate(order):
        if differences[number].p > level / (len(order) - rank):
            break
        marked.add(number)
    return [
        _replace(one, marked=n in marked and one.identities >= least_people)
        for n, one in enumerate(differences)
    ]


def mean_of_pairs(features: ArrayLike) -> Summary:
    """Mean cosine of all pairs of people, each pair once, with an interval over people.

    A pair shares a person with 2 (P - 2) others, so pairs are not independent: the interval is
    the jackknife's, which leaves out a person with all their pairs.

    Args:
        features: (P, D), one row a person.

    Raises:
        ValueError: not of that shape.
    """
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"features have shape {rows.shape}, allowed: (P, D)")
    people = len(rows)
    if people < 2:
        return _without_interval(math.nan, 0, people)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    total = unit.sum(axis=0)
    # sum over pairs = (|sum u|^2 - P) / 2: no pair is formed.
    pairs = (total @ total - people) / 2
    mean = float(pairs / (people * (people - 1) / 2))
    if people < 4:
        return _without_interval(mean, people * (people - 1) // 2, people)
    own = unit @ total - 1
    pseudo = people * mean - (people - 1) * (pairs - own) / ((people - 1) * (people - 2) / 2)
    spread = one_way(pseudo - pseudo.mean(), np.full(people, 1 / people))
    low, high = interval(mean, *spread)
    n = people * (people - 1) // 2
    return Summary(mean, n, people, low, high, *spread, "people", nan=0)


def _without_interval(mean: float, n: int, people: int) -> Summary:
    return Summary(mean, n, people, math.nan, math.nan, math.nan, 0.0, 0.0, "", nan=0)


def _replace(one: Difference, **changes: Any) -> Difference:
    # dataclasses.replace does not know the slots of a base class in Python 3.11.
    fields = {name: getattr(one, name) for name in Difference.__dataclass_fields__}
    return Difference(**{**fields, **changes})


def _check(
    values: ArrayLike, identities: Sequence[str] | NDArray[np.str_], units: Units | None
) -> tuple[Floats, NDArray[np.str_]]:
    numbers = np.asarray(values, dtype=np.float64)
    people = np.asarray(identities)
    if numbers.ndim != 1 or numbers.shape != people.shape:
        raise ValueError(
            f"values have shape {numbers.shape} and identities {people.shape}, allowed: "
            "twice the same (N,)"
        )
    if units is not None and len(units.unit) != len(numbers):
        raise ValueError(f"got {len(numbers)} values and {len(units.unit)} units, allowed: equal")
    return numbers, people


def _estimate(
    values: Floats,
    people: NDArray[np.str_],
    units: Units | None,
    valid: NDArray[np.bool_],
    pictures: ArrayLike | None,
    rate: bool,
) -> dict[str, Any]:
    numbers = values[valid]
    if rate and not np.isin(numbers, (0.0, 1.0)).all():
        odd = numbers[~np.isin(numbers, (0.0, 1.0))][0]
        raise ValueError(f"value of a rate is {odd}, allowed: 0 and 1")
    distinct = len(numbers)
    if pictures is not None:
        distinct = len(np.unique(np.asarray(pictures)[valid], axis=0))
    names, person = np.unique(people[valid], return_inverse=True)
    found: dict[str, Any] = {
        "mean": float(numbers.mean()) if len(numbers) else math.nan,
        "n": distinct,
        "identities": len(names),
        "low": math.nan,
        "high": math.nan,
        "error": math.nan,
        "df": 0.0,
        "skew": 0.0,
        "over": "",
    }
    if len(names) < 2:
        return found
    if units is not None and units.known:
        _, unit = np.unique(units.unit[valid], return_inverse=True)
        stratum = np.unique(units.stratum[valid], return_inverse=True)[1]
        spread = two_way(numbers, person, unit, stratum)
        over = units.over
    else:
        # People who share their pictures are no sample of pictures.
        if distinct < len(names):
            return found
        sums = sums_of(person, numbers - found["mean"])
        spread = one_way(sums, np.full(len(names), 1 / len(numbers)))
        over = "people" if units is None else units.over
    error, df, skew = spread
    low, high = interval(found["mean"], error, df, skew)
    if rate:
        low, high = rate_interval(found["mean"], error, df, min(len(names), distinct), distinct)
    return found | {
        "low": low, "high": high, "error": error, "df": df, "skew": skew, "over": over
    }  # fmt: skip
