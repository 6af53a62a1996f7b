"""Intervals against arithmetic written out by hand, and what they say of awkward inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from eval.stats import (
    Difference,
    holm,
    independent_difference,
    mean_of_pairs,
    paired_difference,
    summarise,
)
from eval.units import units_of


def _sample(people: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Values with a person effect as large as the noise; people have 2 to 5 pictures each."""
    rng = np.random.default_rng(seed)
    values, identities = [], []
    for person in range(people):
        effect = rng.exponential()
        count = 2 + person % 4
        values.extend(0.5 + effect + rng.normal(size=count))
        identities.extend([f"person_{person}"] * count)
    return np.array(values), identities


def _crossed(people: int, prompts: int):
    labels = [f"prompt_{n}" for n in range(prompts)] * people
    return units_of(labels, ["raw"] * len(labels), [0] * len(labels))


def _names(people: int, each: int) -> list[str]:
    return [f"person_{n}" for n in range(people) for _ in range(each)]


@pytest.mark.parametrize("people", [5, 12, 40])
def test_the_interval_is_where_halls_transformed_t_leaves_its_quantiles(people):
    values, identities = _sample(people, seed=people)
    found = summarise(values, identities)
    mean = math.fsum(values) / len(values)
    sums = [
        math.fsum(v - mean for v, name in zip(values, identities, strict=True) if name == who)
        for who in dict.fromkeys(identities)
    ]
    variance = people / (people - 1) * sum(s * s for s in sums) / len(values) ** 2
    error = math.sqrt(variance)
    skew = stats.skew(sums, bias=False) / math.sqrt(people)

    def transformed(truth: float) -> float:
        t = (mean - truth) / error
        return t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6

    reach = stats.t.ppf(0.975, people - 1)
    low = optimize.brentq(lambda x: transformed(x) - reach, mean - 60 * error, mean)
    high = optimize.brentq(lambda x: transformed(x) + reach, mean, mean + 60 * error)
    assert (found.mean, found.error) == pytest.approx((mean, error))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_people_and_prompts_are_the_crossed_random_effects_of_the_mean_squares():
    rng = np.random.default_rng(0)
    people, prompts = 7, 6
    grid = rng.normal(size=(people, 1)) + rng.normal(size=(1, prompts))
    grid = grid + 0.3 * rng.normal(size=(people, prompts))
    found = summarise(grid.ravel(), _names(people, prompts), _crossed(people, prompts))
    whole = grid.mean()
    square_people = prompts * sum((row.mean() - whole) ** 2 for row in grid) / (people - 1)
    square_prompts = people * sum((c.mean() - whole) ** 2 for c in grid.T) / (prompts - 1)
    rest = sum(
        (grid[p, c] - grid[p].mean() - grid[:, c].mean() + whole) ** 2
        for p in range(people)
        for c in range(prompts)
    ) / ((people - 1) * (prompts - 1))
    total = square_people + square_prompts - rest
    df = total**2 / (
        square_people**2 / (people - 1)
        + square_prompts**2 / (prompts - 1)
        + rest**2 / ((people - 1) * (prompts - 1))
    )
    assert found.error == pytest.approx(math.sqrt(total / (people * prompts)))
    assert found.df == pytest.approx(df)
    assert found.over == "people and prompts"


def test_unbalanced_residuals_are_those_of_least_squares():
    """V = V_people + V_prompts - V_rest, with the rest from a dense least-squares fit."""
    rng = np.random.default_rng(3)
    people, prompts = 6, 5
    keep = rng.random(people * prompts) < 0.8
    grid = rng.normal(size=(people, 1)) + rng.normal(size=(1, prompts))
    values = (grid + 0.3 * rng.normal(size=(people, prompts))).ravel()
    values[~keep] = np.nan
    found = summarise(values, _names(people, prompts), _crossed(people, prompts))
    y = values[keep]
    who, what = np.divmod(np.flatnonzero(keep), prompts)
    design = np.zeros((len(y), people + prompts))
    design[np.arange(len(y)), who] = design[np.arange(len(y)), people + what] = 1
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    n, m = len(y), y.mean()
    v = [
        k / (k - 1) * sum(((y - m)[index == i].sum() / n) ** 2 for i in range(k))
        for index, k in ((who, people), (what, prompts))
    ]
    v_rest = (rest**2).sum() / n / (n - people - prompts + 1)
    assert found.error**2 == pytest.approx(max(sum(v) - v_rest, *v), rel=1e-6)
    assert (found.n, found.nan) == (keep.sum(), (~keep).sum())


def test_one_picture_for_all_people_counts_once_and_has_the_interval_of_prompts():
    """text_only: 4 pictures judged against 7 people are 4 pictures and no 28."""
    four = np.array([0.70, 0.75, 0.80, 0.85])
    found = summarise(
        np.tile(four, 7), _names(7, 4), _crossed(7, 4), pictures=np.tile(np.arange(4), 7)
    )
    reach = stats.t.ppf(0.975, 3) * four.std(ddof=1) / 2
    assert (found.n, found.identities) == (4, 7)
    assert (found.low, found.high) == pytest.approx((0.775 - reach, 0.775 + reach))


def test_shared_pictures_of_few_prompts_carry_no_interval():
    labels = ["a", "b"] * 7
    units = units_of(labels, ["raw"] * 14, [0] * 14)
    found = summarise([0.1, 0.2] * 7, _names(7, 2), units, pictures=[0, 1] * 7)
    assert found.n == 2
    assert math.isnan(found.low)
    assert found.over == ""


@pytest.mark.parametrize(
    ("prompts", "seeds", "known", "over"),
    [
        (4, 1, True, "people and prompts"),
        (3, 2, True, "people and seeds, for these prompts only"),
        (3, 1, False, "people, for these prompts and seeds only"),
        (1, 3, False, "people, for these prompts and seeds only"),
        (1, 4, True, "people and seeds, for these prompts only"),
    ],
)
def test_what_is_generalised_over_is_said(prompts, seeds, known, over):
    cells = [(f"p{p}", s) for p in range(prompts) for s in range(seeds)]
    units = units_of([p for p, _ in cells], ["raw"] * len(cells), [s for _, s in cells])
    assert (units.known, units.over) == (known, over)


def test_prompts_that_stand_fixed_do_not_widen_the_interval_of_seeds():
    rng = np.random.default_rng(1)
    prompt, seed = np.repeat(["a", "b", "c"], 2), np.tile([0, 1], 3)
    units = units_of(np.tile(prompt, 9), ["raw"] * 54, np.tile(seed, 9))
    noise = rng.normal(size=(9, 1)) + rng.normal(size=(1, 6)) + rng.normal(size=(9, 6))
    far = noise + np.repeat([0.0, 10.0, 20.0], 2)
    near, apart = (summarise(v.ravel(), _names(9, 6), units) for v in (noise, far))
    assert apart.error == pytest.approx(near.error)


def test_pictures_of_one_person_do_not_narrow_the_interval():
    values, identities = _sample(12, seed=3)
    once = summarise(values, identities)
    tenfold = summarise(np.tile(values, 10), identities * 10)
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert tenfold.n == 10 * once.n


@pytest.mark.parametrize("people", [7, 20])
def test_a_rate_of_one_is_not_certain(people):
    found = summarise(np.ones(4 * people), _names(people, 4), rate=True)
    z, n = 1.959964, people * math.sqrt(1.959964 / stats.t.ppf(0.975, people - 1))
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(n / (n + z * z), abs=1e-5)


def test_a_rate_has_wilsons_interval_of_its_independent_pictures():
    own = np.array([4, 4, 4, 3, 4, 2, 4, 4]) / 4
    values = np.concatenate([np.repeat([1.0, 0.0], [round(4 * r), 4 - round(4 * r)]) for r in own])
    found = summarise(values, _names(8, 4), rate=True)
    p = own.mean()
    independent = p * (1 - p) / (own.var(ddof=1) / 8)
    n = independent * math.sqrt(1.959964 / stats.t.ppf(0.975, 7))
    roots = np.roots([1 + 1.959964**2 / n, -(2 * p + 1.959964**2 / n), p * p])
    assert (found.low, found.high) == pytest.approx(tuple(sorted(roots)), abs=1e-5)


def test_a_rate_is_zeros_and_ones():
    with pytest.raises(ValueError, match=r"value of a rate is 0\.5, allowed: 0 and 1"):
        summarise([1.0, 0.5], ["a", "b"], rate=True)


def test_two_rates_without_a_difference_may_differ_all_the_same():
    found = paired_difference(np.ones(28), np.ones(28), _names(7, 4), rate=True)
    assert (found.mean, found.p) == (0.0, 1.0)
    # Wilson's of 0 in 7.
    assert found.high == pytest.approx(3.841459 / (7 + 3.841459), abs=1e-5)
    assert found.low == -found.high


def test_nan_is_counted_and_left_out():
    found = summarise([1.0, np.nan, 3.0, np.nan], ["a", "a", "b", "c"])
    assert (found.mean, found.n, found.nan, found.identities) == (2.0, 2, 2, 2)


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


def test_the_p_value_is_the_more_careful_of_both_ts():
    """An interval that just touches zero has p = 0.05, or more by the plain t."""
    values, identities = _sample(15, seed=8)
    found = summarise(values, identities)
    for end in (found.low, found.high):
        moved = paired_difference(values - end, np.zeros(len(values)), identities)
        plain = 2 * stats.t.sf(abs(moved.mean) / moved.error, moved.df)
        assert moved.p == pytest.approx(max(0.05, plain), abs=1e-6)


def _difference(p: float, people: int = 30) -> Difference:
    return Difference(0.1, 60, people, 0.0, 0.2, 0.05, people - 1.0, 0.0, "people", 0, p)


def test_marks_are_holms():
    p = [0.001, 0.04, 0.012, 0.9, math.nan, 0.02]
    # Five tests: 0.001 <= 0.05 / 5 and 0.012 <= 0.05 / 4 hold, 0.02 <= 0.05 / 3 does not.
    assert [one.marked for one in holm([_difference(x) for x in p])] == [
        True, False, True, False, False, False
    ]  # fmt: skip


def test_below_twenty_people_nothing_is_marked():
    assert not holm([_difference(1e-9, people=19)])[0].marked
    assert holm([_difference(1e-9, people=20)])[0].marked


def test_pairs_of_people_count_once_and_leave_people_out():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(6, 4)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)

    def mean(rows):
        return np.mean([unit[a] @ unit[b] for a in rows for b in rows if a < b])

    found = mean_of_pairs(features)
    left = np.array([mean([r for r in range(6) if r != out]) for out in range(6)])
    jackknife = 5 / 6 * ((left - left.mean()) ** 2).sum()
    assert (found.n, found.mean) == (15, pytest.approx(mean(range(6))))
    assert found.error == pytest.approx(math.sqrt(jackknife))


def test_two_summaries_differ_by_welch():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=9), rng.normal(0.5, 2.0, size=14)
    first, second = (summarise(x, [str(n) for n in range(len(x))]) for x in (a, b))
    found = independent_difference(first, second)
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"\(2,\).*\(1,\)"):
        summarise([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="got 2 values and 3 units"):
        summarise([1.0, 2.0], ["a", "b"], units_of(["x"] * 3, ["y"] * 3, [0] * 3))
