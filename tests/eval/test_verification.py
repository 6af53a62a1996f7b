"""Error rates of verification against counting, against torchmetrics, and left out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_roc

from eval.verification import verification


def _people(people, each, seed=0, spread=0.8):
    """Generated features with their labels, real features with theirs: one photo a person."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, 6))
    made = np.repeat(centres, each, axis=0)
    made = made + spread * rng.normal(size=made.shape)
    names = [f"p{n}" for n in range(people)]
    return made, np.repeat(names, each).tolist(), centres + 0.3, names


def _pairs(made, made_labels, real, real_labels):
    unit_made = made / np.linalg.norm(made, axis=1, keepdims=True)
    unit_real = real / np.linalg.norm(real, axis=1, keepdims=True)
    same, other = [], []
    for row, label in zip(unit_made, made_labels, strict=True):
        for photo, name in zip(unit_real, real_labels, strict=True):
            (same if label == name else other).append(float(row @ photo))
    return np.array(same), np.array(other)


def _scores(values):
    """One picture a value along a quarter circle: its cosine to the photo [1, 0] is the value."""
    return [[value, math.sqrt(1 - value**2)] for value in values]


def _of(genuine, impostor, **options):
    made = np.array(_scores([*genuine, *impostor]))
    labels = ["a"] * len(genuine) + ["b"] * len(impostor)
    return verification(made, labels, [[1.0, 0.0]], ["a"], **options)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_true_accept_rate_is_counted(rate):
    given = _people(9, 5)
    genuine, impostor = _pairs(*given)
    best = max(
        np.mean(genuine >= threshold)
        for threshold in [*genuine, *impostor]
        if np.mean(impostor >= threshold) <= rate
    )
    found = verification(*given, false_accept=[rate])
    assert found.tar[rate].mean == pytest.approx(best)
    assert (found.genuine, found.impostor) == (len(genuine), len(impostor)) == (45, 360)


def test_rates_are_those_of_torchmetrics():
    given = _people(8, 6, seed=3)
    genuine, impostor = _pairs(*given)
    values = np.concatenate([genuine, impostor])
    scores = torch.from_numpy(np.unique(values, return_inverse=True)[1] / len(values))
    target = torch.cat([torch.ones(len(genuine)), torch.zeros(len(impostor))]).long()
    false, true, _ = (part.numpy() for part in binary_roc(scores, target))
    gap = (1 - true) - false
    k = int(np.argmax(gap <= 0))
    part = gap[k - 1] / (gap[k - 1] - gap[k])
    found = verification(*given)
    assert found.auc.mean == pytest.approx(float(binary_auroc(scores, target)))
    assert found.eer.mean == pytest.approx(
        false[k - 1] + part * (false[k] - false[k - 1]), abs=1e-6
    )


def test_the_equal_error_rate_lies_between_thresholds():
    # Over falling thresholds (false, miss): (0, 1), (0, 2/3), (1/2, 2/3), (1/2, 1/3), ...: from
    # (1/2, 2/3) to (1/2, 1/3) the miss rate meets 1/2.
    assert _of([0.9, 0.7, 0.1], [0.8, 0.2]).eer.mean == pytest.approx(0.5)
    # (0, 1), (0, 1/2), (1/3, 1/2), (2/3, 1/2): they meet at 1/2, which no threshold has.
    assert _of([0.9, 0.1], [0.8, 0.7, 0.6]).eer.mean == pytest.approx(0.5)


def test_a_false_accept_rate_needs_ten_pairs_to_make_it_up():
    genuine = [0.9] * 5
    few, enough = (np.linspace(0, 0.5, n) for n in (999, 1000))
    assert _of(genuine, few, false_accept=[0.01]).tar == {0.01: None}
    assert _of(genuine, enough, false_accept=[0.01]).tar[0.01].mean == 1.0


def test_equal_similarities_are_refused_together():
    found = _of([0.5, 0.9], [0.5] * 20, false_accept=[0.5])
    assert found.tar[0.5].mean == 0.5


def test_intervals_leave_out_a_person_with_all_pictures_and_photos():
    made, made_labels, real, real_labels = given = _people(6, 4, seed=1)
    found = verification(*given, false_accept=[0.3])

    def without(name):
        kept = [n for n, label in enumerate(made_labels) if label != name]
        photos = [n for n, label in enumerate(real_labels) if label != name]
        rest = verification(
            made[kept], [made_labels[n] for n in kept],
            real[photos], [real_labels[n] for n in photos], false_accept=[0.3],
        )  # fmt: skip
        return rest.eer.mean, rest.auc.mean, rest.tar[0.3].mean

    left_out = np.array([without(name) for name in real_labels])
    for one, others in zip((found.eer, found.auc, found.tar[0.3]), left_out.T, strict=True):
        pseudo = 6 * one.mean - 5 * others
        assert one.error == pytest.approx(pseudo.std(ddof=1) / math.sqrt(6))
        assert 0 <= one.low <= one.mean <= one.high <= 1
        assert (one.identities, one.n, one.over) == (6, 24, "people")


def test_a_perfect_rate_of_few_people_is_not_certain():
    made, labels, _, names = _people(8, 4, spread=1e-3)
    found = verification(made, labels, made[::4], names)
    assert (found.eer.mean, found.auc.mean) == (0.0, 1.0)
    # Wilson of 0 of 8 people, at the least.
    assert found.eer.high > 0.25
    assert found.auc.low < 0.75


def test_three_people_carry_no_interval():
    found = verification(*_people(3, 4))
    assert math.isnan(found.eer.low)
    assert found.eer.over == ""


@pytest.mark.parametrize(("made", "real"), [(["a"], ["b"]), (["a"], ["a"])])
def test_without_both_kinds_of_pairs_there_is_nothing(made, real):
    assert verification([[1.0, 0.0]], made, [[1.0, 0.0]], real) is None


def test_a_rate_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"rate is 1\.0, allowed: between 0 and 1"):
        _of([0.5], [0.4], false_accept=[1.0])
