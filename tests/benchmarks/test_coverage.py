"""A short form of `python -m benchmarks.run coverage`: it was 83 and 42 in 100."""

from __future__ import annotations

import pytest

from benchmarks.coverage import run


@pytest.fixture(scope="module")
def figures():
    return run({"runs": 240, "people": [7], "seed": 3})


@pytest.mark.parametrize(
    "case",
    ["mean_normal_7", "mean_skewed_7", "prompts_normal_7x4", "seeds_7", "rate_7", "pairs_7"],
)
def test_intervals_of_seven_people_hold_the_truth(figures, case):
    # Three standard errors of 240 runs around 93 to 97.
    assert 0.88 <= figures[case] <= 1.0


def test_the_gate_is_silent_where_nothing_fell(figures):
    assert figures["gate_false_alarms"] <= 0.09
    assert figures["gate_power"] >= 0.6
