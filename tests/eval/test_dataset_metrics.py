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
)
from eval.distributions import frechet_distance, kernel_distance

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
    assert found.separation.mean == pytest.approx(separation)
    assert found.nearest == pytest.approx(nearest)
    assert found.consistency.mean == pytest.approx(consistency)
    assert (found.separation.identities, found.consistency.identities) == (8, 7)
    assert (found.classes, found.singles) == (8, 1)


def test_separation_has_the_jackknife_of_people():
    """Against leaving out each person and forming every pair again."""
    centres = RNG.normal(size=(9, 5)) + 1
    found = class_structure(centres, [str(n) for n in range(9)]).separation

    def mean(rows):
        return np.mean([cosine(a, b) for a, b in itertools.combinations(rows, 2)])

    pseudo = np.array([9 * mean(centres) - 8 * mean(np.delete(centres, n, 0)) for n in range(9)])
    assert found.error == pytest.approx(pseudo.std(ddof=1) / 3)
    assert found.low < found.mean < found.high


def test_class_structure_in_blocks_equals_scipy():
    features = RNG.normal(size=(1500, 3))
    found = class_structure(features, [str(n) for n in range(1500)])
    nearest = 1 - np.array([np.delete(row, n).max() for n, row in enumerate(_cosines(features))])
    assert found.nearest == pytest.approx(nearest.mean())
    assert math.isnan(found.consistency.mean)
    assert found.consistency.n == 0


def test_consistency_does_not_depend_on_the_number_of_pictures():
    """It was 0.068 with 2 pictures of a person and 0.132 with 16 of the same kind."""
    rng = np.random.default_rng(1)

    def consistency(each):
        centres = np.repeat(rng.normal(size=(200, 8)), each, axis=0)
        features = centres + 0.5 * rng.normal(size=centres.shape)
        found = class_structure(features, [str(n // each) for n in range(len(features))])
        return found.consistency.mean

    assert consistency(2) == pytest.approx(consistency(16), rel=0.1)


def _cosines(features: np.ndarray) -> np.ndarray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


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
        (lambda: copy_paste_score(REAL, FAKE, REAL), r"\(300, 6\), \(260, 6\)"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
