"""What the image tower sees of people."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.image_tower import found_again, run


def test_people_are_found_again_by_their_own_features():
    rng = np.random.default_rng(0)
    people = np.linalg.qr(rng.standard_normal((16, 16)))[0].astype(np.float32)
    same = found_again(people, people)
    assert same["rank1"] == 1
    assert same["margin"] == pytest.approx(1, abs=1e-5)
    shifted = found_again(people, np.roll(people, 1, axis=0))
    assert shifted["rank1"] == 0
    assert shifted["margin"] == pytest.approx(-1 / 15, abs=1e-5)


def test_one_person_is_too_few():
    with pytest.raises(ValueError, match="people is 1, allowed: 2 or more"):
        run({"people": 1, "split": "validation", "threads": 1})
