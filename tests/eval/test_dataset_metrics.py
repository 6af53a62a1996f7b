"""Every metric against the definition written out over pairs, or against SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.distance import cosine

from eval.dataset_metrics import (
    class_structure,
    copy_paste_score,
    seed_diversity,
    verification_pairs,
)
from eval.distributions import frechet_distance, kernel_distance, verification

RNG = np.random.default_rng(4)
REAL = RNG.normal(size=(300, 6)) @ RNG.normal(size=(6, 6))
FAKE = RNG.normal(size=(260, 6)) @ RNG.normal(size=(6, 6)) + 0.3


def test_frechet_distance_is_the_closed_form():
    mean = REAL.mean(axis=0) - FAKE.mean(axis=0)
    a, b = np.cov(REAL.T), np.cov(FAKE.T)
    expected = mean @ mean + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(REAL, FAKE) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_a_set_to_itself_is_zero():
    assert frechet_distance(REAL, REAL) == pytest.approx(0, abs=1e-4)


def test_kernel_distance_is_the_unbiased_discrepancy():
    a, b = REAL[:30], FAKE[:30]

    def kernel(x, y):
        return (x @ y / 6 + 1) ** 3

    pairs = list(itertools.permutations(range(30), 2))
    within = sum(kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs) / len(pairs)
    across = sum(kernel(x, y) for x in a for y in b) / 900
    mean, deviation = kernel_distance(a, b, subsets=3, subset_size=30)
    assert mean == pytest.approx(within - 2 * across, rel=1e-5)
    assert deviation == pytest.approx(0, abs=1e-4 * abs(mean))


def test_kernel_distance_repeats_and_leaves_the_generator_alone():
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = kernel_distance(REAL, FAKE, subsets=4, subset_size=20)
    assert torch.rand(1) == expected
    assert kernel_distance(REAL, FAKE, subsets=4, subset_size=20) == first


def test_class_structure_is_the_mean_over_pairs():
    labels = [f"p{n % 7}" for n in range(40)] + ["alone"]
    features = RNG.normal(size=(41, 5)) + 2
    groups: dict[str, list[np.ndarray]] = {}
    for feature, label in zip(features, labels, strict=True):
        groups.setdefault(label, []).append(feature / np.linalg.norm(feature))
    centres = {name: np.mean(rows, axis=0) for name, rows in groups.items()}
    separation = np.mean([cosine(a, b) for a, b in itertools.combinations(centres.values(), 2)])
    nearest = np.mean(
        [min(cosine(centres[n], centres[m]) for m in centres if m != n) for n in centres]
    )
    consistency = np.mean(
        [
            np.mean([cosine(a, b) for a, b in itertools.combinations(rows, 2)])
            for rows in groups.values()
            if len(rows) > 1
        ]
    )
    found = class_structure(features, labels)
    assert found.separation == pytest.approx(separation)
    assert found.nearest == pytest.approx(nearest)
    assert found.consistency == pytest.approx(consistency)
    assert (found.classes, found.singles) == (8, 1)


def test_class_structure_in_blocks_equals_scipy():
    features = RNG.normal(size=(1500, 3))
    found = class_structure(features, [str(n) for n in range(1500)])
    nearest = 1 - np.array([np.delete(row, n).max() for n, row in enumerate(_cosines(features))])
    assert found.nearest == pytest.approx(nearest.mean())
    assert math.isnan(found.consistency)


def test_consistency_does_not_depend_on_the_number_of_pictures():
    """It was 0.068 with 2 pictures of a person and 0.132 with 16 of the same kind."""
    rng = np.random.default_rng(1)

    def consistency(each):
        centres = np.repeat(rng.normal(size=(200, 8)), each, axis=0)
        features = centres + 0.5 * rng.normal(size=centres.shape)
        return class_structure(features, [str(n // each) for n in range(len(features))]).consistency

    assert consistency(2) == pytest.approx(consistency(16), rel=0.1)


def _cosines(features: np.ndarray) -> np.ndarray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_true_accept_rate_is_counted(rate):
    genuine, impostor = RNG.normal(0.5, 0.2, 120), RNG.normal(0.2, 0.2, 200)
    best = max(
        np.mean(genuine >= threshold)
        for threshold in [*genuine, *impostor]
        if np.mean(impostor >= threshold) <= rate
    )
    found = verification(genuine, impostor, false_accept=[rate])
    assert found.tar[rate] == pytest.approx(best)


def test_equal_error_rate_and_area_are_counted():
    genuine, impostor = RNG.normal(0.5, 0.2, 150), RNG.normal(0.2, 0.2, 150)
    gaps = [
        (abs(np.mean(impostor >= t) - np.mean(genuine < t)), np.mean(impostor >= t))
        for t in [*genuine, *impostor]
    ]
    area = np.mean([g > i for g in genuine for i in impostor])
    found = verification(genuine, impostor)
    assert found.eer == pytest.approx(min(gaps)[1], abs=0.01)
    assert found.auc == pytest.approx(area)


def test_the_equal_error_rate_lies_between_thresholds():
    # Over falling thresholds (false, miss): (0, 1), (0, 2/3), (1/2, 2/3), (1/2, 1/3), ...: from
    # (1/2, 2/3) to (1/2, 1/3) the miss rate meets 1/2.
    assert verification([0.9, 0.7, 0.1], [0.8, 0.2]).eer == pytest.approx(0.5)
    # (0, 1), (0, 1/2), (1/3, 1/2), (2/3, 1/2): they meet at 1/2, which no threshold has.
    assert verification([0.9, 0.1], [0.8, 0.7, 0.6]).eer == pytest.approx(0.5)


def test_a_false_accept_rate_needs_ten_pairs_to_make_it_up():
    genuine = [0.9] * 5
    few, enough = (np.linspace(0, 0.5, n) for n in (999, 1000))
    assert verification(genuine, few, false_accept=[0.01]).tar == {0.01: None}
    assert verification(genuine, enough, false_accept=[0.01]).tar == {0.01: 1.0}


def test_close_negative_similarities_are_told_apart():
    found = verification([-1e-9, 0.0], [-3e-9, -2e-9])
    assert (found.eer, found.auc) == (0.0, 1.0)


def test_pairs_are_every_generated_with_every_real():
    genuine, impostor = verification_pairs(np.eye(3), ["a", "b", "c"], np.eye(3)[:2], ["a", "c"])
    assert sorted(genuine) == [0.0, 1.0]
    assert sorted(impostor) == [0.0, 0.0, 0.0, 1.0]


def test_seed_diversity_is_the_mean_over_pairs():
    features = RNG.normal(size=(7, 4))
    groups = ["x", "x", "x", "y", "y", "z", "x"]
    found = seed_diversity(features, groups)
    x = [features[n] for n in (0, 1, 2, 6)]
    assert found["x"] == pytest.approx(
        np.mean([cosine(a, b) for a, b in itertools.combinations(x, 2)])
    )
    assert found["y"] == pytest.approx(cosine(features[3], features[4]))
    assert set(found) == {"x", "y"}


@pytest.mark.parametrize(("position", "score"), [(0.0, 1.0), (1.0, -1.0), (0.5, 0.0), (0.25, 0.5)])
def test_copy_paste_score_between_reference_and_target(position, score):
    """On the arc from the reference (0) to the target (1), 60 degrees long."""
    angle = math.radians(60)
    reference, target = [1.0, 0.0], [math.cos(angle), math.sin(angle)]
    generated = [math.cos(position * angle), math.sin(position * angle)]
    found = copy_paste_score([generated], [target], [reference])
    assert found[0] == pytest.approx(score, abs=1e-7)


def test_copy_paste_score_needs_two_photos():
    assert math.isnan(copy_paste_score([[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 2.0]])[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(REAL, FAKE[:, :3]), r"\(300, 6\) and \(260, 3\)"),
        (lambda: kernel_distance(REAL[:1], FAKE), "1 and 260 rows"),
        (lambda: class_structure(REAL, ["a"] * 300), "1 people"),
        (lambda: class_structure(REAL, ["a", "b"]), "300 features and 2 labels"),
        (lambda: verification([], [0.1]), "0 genuine and 1 impostor"),
        (lambda: verification([0.2], [0.1], false_accept=[1.0]), "rate is 1.0"),
        (lambda: copy_paste_score(REAL, FAKE, REAL), r"\(300, 6\), \(260, 6\)"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
