"""Intervals against a bootstrap written out picture by picture, and against the normal limit."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from eval import stats
from eval.stats import paired_difference, summarise


def _sample(people: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Values with a person effect as large as the noise; people have 2 to 5 pictures each."""
    rng = np.random.default_rng(seed)
    values, identities = [], []
    for person in range(people):
        effect = rng.normal()
        count = 2 + person % 4
        values.extend(0.5 + effect + rng.normal(size=count))
        identities.extend([f"person_{person}"] * count)
    return np.array(values), identities


def _bootstrap_by_hand(values, identities, resamples: int) -> tuple[float, float]:
    """Percentiles of means over concatenated pictures of resampled people; Python's generator."""
    generator = random.Random(7)
    groups: dict[str, list[float]] = {}
    for value, identity in zip(values, identities, strict=True):
        groups.setdefault(identity, []).append(float(value))
    names = list(groups)
    means = []
    for _ in range(resamples):
        pictures = [v for name in generator.choices(names, k=len(names)) for v in groups[name]]
        means.append(math.fsum(pictures) / len(pictures))
    means.sort()
    return means[round(0.025 * resamples)], means[round(0.975 * resamples) - 1]


@pytest.mark.parametrize("people", [5, 12, 40])
def test_interval_equals_a_bootstrap_by_hand(people):
    values, identities = _sample(people, seed=people)
    found = summarise(values, identities)
    low, high = _bootstrap_by_hand(values, identities, 4000)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.low == pytest.approx(low, abs=0.06 * (high - low) + 0.01)
    assert found.high == pytest.approx(high, abs=0.06 * (high - low) + 0.01)


def test_pictures_of_one_person_do_not_narrow_the_interval():
    values, identities = _sample(12, seed=3)
    once = summarise(values, identities)
    tenfold = summarise(np.tile(values, 10), identities * 10)
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert tenfold.n == 10 * once.n


def test_many_people_take_the_normal_limit(monkeypatch):
    values, identities = _sample(600, seed=1)
    resampled = summarise(values, identities)
    monkeypatch.setattr(stats, "NORMAL_FROM", 100)
    normal = summarise(values, identities)
    assert normal.low == pytest.approx(resampled.low, abs=0.02)
    assert normal.high == pytest.approx(resampled.high, abs=0.02)
    assert normal.low != resampled.low


def test_nan_is_counted_and_left_out():
    found = summarise([1.0, np.nan, 3.0, np.nan], ["a", "a", "b", "c"])
    assert (found.mean, found.n, found.nan, found.identities) == (2.0, 2, 2, 2)


def test_same_seed_same_interval_other_seed_another():
    values, identities = _sample(9, seed=2)
    assert summarise(values, identities) == summarise(values, identities)
    assert summarise(values, identities).low != summarise(values, identities, seed=1).low


@pytest.mark.parametrize(
    ("values", "identities", "mean"),
    [([], [], math.nan), ([0.25, 0.75], ["a", "a"], 0.5), ([math.nan], ["a"], math.nan)],
)
def test_without_two_people_there_is_no_interval(values, identities, mean):
    found = summarise(values, identities)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.mean == pytest.approx(mean, nan_ok=True)


def test_pairing_removes_what_both_methods_share():
    values, identities = _sample(20, seed=5)
    rng = np.random.default_rng(0)
    better = values + 0.1 + rng.normal(scale=0.01, size=len(values))
    difference = paired_difference(better, values, identities)
    assert difference.mean == pytest.approx((better - values).mean())
    assert 0.09 < difference.low < 0.1 < difference.high < 0.11
    alone = summarise(better, identities)
    assert alone.high - alone.low > 20 * (difference.high - difference.low)


def test_a_pair_needs_both_numbers():
    found = paired_difference([1.0, 2.0, np.nan, 4.0], [0.5, np.nan, 1.0, 3.0], list("abcd"))
    assert (found.n, found.unpaired, found.mean) == (2, 2, 0.75)


@pytest.mark.parametrize(
    ("identities", "level", "message"),
    [(["a"], 0.95, r"\(2,\).*\(1,\)"), (["a", "b"], 95, "level is 95")],
)
def test_wrong_input_is_refused(identities, level, message):
    with pytest.raises(ValueError, match=message):
        summarise([1.0, 2.0], identities, level=level)
