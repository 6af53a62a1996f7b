"""The spread of means over people and prompts, and the intervals that follow from it.

With y_pc the mean over the pictures of person p and unit c (a prompt, or a seed within a prompt)
and w_pc their share, m = sum w_pc y_pc has the variance

    V = V_people + V_units - V_rest,    at least max(V_people, V_units)

where V_people = P / (P - 1) sum_p (sum_c w_pc (y_pc - m))^2, V_units alike, and V_rest is that of
the residuals of the additive fit (on balanced data: the crossed random-effects estimate from the
mean squares). Degrees of freedom are Satterthwaite's. The t interval is corrected for skew by
Hall's monotone transformation (P. Hall, J. R. Statist. Soc. B 54, 1992): without it five to twenty
skewed people are covered 88 to 92 times in 100 instead of 95.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "hall",
    "interval",
    "one_way",
    "power_at",
    "quantile",
    "rate_interval",
    "sums_of",
    "two_way",
    "wilson",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_Z = float(special.ndtri(0.975))


def one_way(sums: Floats, weights: Floats) -> tuple[float, float, float]:
    """(error, df, skew) of a sum of independent parts, each a deviation times its weight."""
    parts = sums * weights
    count = len(parts)
    variance = count / (count - 1) * float(np.square(parts).sum())
    return math.sqrt(variance), float(count - 1), _skew(parts) / math.sqrt(count)


def two_way(values: Floats, person: Ints, unit: Ints, stratum: Ints) -> tuple[float, float, float]:
    """(error, df, skew) of the mean of values that people and units have in common."""
    width = int(unit.max()) + 1
    cells, cell = np.unique(person.astype(np.int64) * width + unit, return_inverse=True)
    counts = np.bincount(cell)
    weight = counts / len(values)
    means = np.bincount(cell, weights=values) / counts
    row, column = cells // width, cells % width
    mean = float(weight @ means)
    by_person = sums_of(row, weight * (means - mean))
    # Strata stand fixed: a unit is compared with the others of its own.
    stratum_of = np.zeros(width, dtype=np.int64)
    stratum_of[unit] = stratum
    own = stratum_of[column]
    middle = np.bincount(own, weights=weight * means) / np.bincount(own, weights=weight)
    by_unit = sums_of(column, weight * (means - middle[own]))
    sizes = np.bincount(stratum_of).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        correct = np.where(sizes > 1, sizes / (sizes - 1), 1.0)
    people, units, strata = len(by_person), len(by_unit), len(sizes)
    v_people = people / (people - 1) * float(np.square(by_person).sum())
    v_units = float((correct[stratum_of] * np.square(by_unit)).sum())
    df_people, df_units = people - 1, max(1, units - strata)
    df_rest = len(cells) - people - units + 1
    v_rest = 0.0
    if df_rest > 0:
        rest = _residuals(means, weight, row, column)
        v_rest = float(np.square(weight * rest).sum()) * len(cells) / df_rest
    variance = max(v_people + v_units - v_rest, v_people, v_units)
    # Below this it is rounding: all values are equal.
    if variance <= (1e-14 * float(np.abs(means).max())) ** 2:
        return 0.0, float(min(df_people, df_units)), 0.0
    below = v_people**2 / df_people + v_units**2 / df_units + v_rest**2 / max(1, df_rest)
    df = max(variance**2 / below, float(min(df_people, df_units)))
    skew = v_people**1.5 * _skew(by_person) / math.sqrt(people)
    skew += v_units**1.5 * _skew(by_unit) / math.sqrt(units)
    return math.sqrt(variance), df, skew / variance**1.5


def _residuals(values: Floats, weight: Floats, row: Ints, column: Ints) -> Floats:
    """What is left of values after the weighted least-squares fit of a row and a column effect.

    By alternating projections: exact at once where the cells are balanced.
    """
    rest = values.copy()
    scale = float(np.abs(values).max()) or 1.0
    totals = [np.bincount(index, weights=weight) for index in (row, column)]
    for _ in range(200):
        moved = 0.0
        for index, total in zip((row, column), totals, strict=True):
            effect = np.bincount(index, weights=weight * rest) / total
            rest -= effect[index]
            moved = float(np.abs(effect).max())
        if moved < 1e-9 * scale:
            break
    return rest


def sums_of(index: Ints, parts: Floats) -> Floats:
    """Sum of the parts of each index."""
    return np.asarray(np.bincount(index, weights=parts), dtype=np.float64)


def _skew(parts: Floats) -> float:
    """Skewness with the correction for small samples; 0 of fewer than five values."""
    count = len(parts)
    if count < 5:
        return 0.0
    centred = parts - parts.mean()
    variance = float(np.square(centred).mean())
    if variance <= 1e-24:
        return 0.0
    third = float((centred**3).mean()) / variance**1.5
    return third * math.sqrt(count * (count - 1)) / (count - 2)


def quantile(level: float, df: float) -> float:
    """Of Student's t; NaN with 0 degrees of freedom."""
    return float(special.stdtrit(df, level)) if df else math.nan


def hall(skew: float, quantile: float) -> float:
    """The studentised mean at which Hall's transformation takes a value."""
    if abs(skew) < 1e-6:
        return quantile
    return 3 / skew * (float(np.cbrt(1 + skew * (quantile - skew / 6))) - 1)


def interval(
    mean: float, error: float, df: float, skew: float, level: float = 0.95
) -> tuple[float, float]:
    """Both ends, of a mean with its standard error, degrees of freedom and skewness."""
    reach = quantile(0.5 + level / 2, df)
    return mean - error * hall(skew, reach), mean - error * hall(skew, -reach)


def rate_interval(
    rate: float, error: float, df: float, least: int, most: int
) -> tuple[float, float]:
    """Wilson's interval with as many independent pictures as the spread between people implies.

    They are between `least` (people that are each all of one kind) and `most`. Of a rate of 0 or
    1 the spread says nothing, and least counts. The spread is an estimate with few degrees of
    freedom: sqrt(z / t) of the pictures count, which the simulations ask for.
    """
    inside = rate * (1 - rate)
    independent = inside / error**2 if error > 0 and inside > 0 else float(least)
    independent = min(max(independent, float(least)), float(most))
    return wilson(rate, independent * math.sqrt(_Z / quantile(0.975, df)))


def wilson(rate: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate of n independent pictures."""
    middle = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z / (1 + _Z**2 / n) * math.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def power_at(power: float, tail: float, df: float) -> float:
    """How many standard errors a mean must be away for a one-sided t test to see it.

    Args:
        power: share of such means that are seen.
        tail: of the test.
        df: degrees of freedom; 0 gives NaN.
    """
    if not df:
        return math.nan
    critical = quantile(1 - tail, df)
    # Noncentral t: its quantile at 1 - power is the critical value.
    return float(special.nctdtrinc(df, 1 - power, critical))
