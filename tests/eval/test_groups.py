"""Who is where in a picture of several people."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.groups import people_seen
from infinite_id.regions import Region

HALVES: list[Region] = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
LEFT, RIGHT = np.array([4.0, 8, 24, 30]), np.array([40.0, 8, 60, 30])
AS_ASKED = np.array([[0.7, 0.1], [0.2, 0.6]])


def test_each_person_in_their_own_region() -> None:
    ada, bob = people_seen([LEFT, RIGHT], AS_ASKED, HALVES, 64, 64)
    assert (ada.in_region, ada.matched, ada.mixed_up) == (0, 0, False)
    assert (bob.in_region, bob.matched, bob.mixed_up) == (1, 1, False)
    assert (ada.identity, ada.identity_in_region) == (0.7, 0.7)
    assert ada.group_margin == pytest.approx(0.6)
    assert bob.group_margin == pytest.approx(0.4)


def test_faces_that_changed_places_are_mixed_up_and_still_matched() -> None:
    ada, bob = people_seen([RIGHT, LEFT], AS_ASKED, HALVES, 64, 64)
    assert (ada.matched, ada.identity, ada.in_region, ada.identity_in_region) == (0, 0.7, 1, 0.2)
    assert ada.mixed_up is True
    assert bob.mixed_up is True


def test_faces_are_given_out_as_a_whole() -> None:
    """Both faces are nearest to ada; each person has one all the same."""
    ada, bob = people_seen([LEFT, RIGHT], np.array([[0.5, 0.1], [0.6, 0.4]]), HALVES, 64, 64)
    assert (ada.matched, bob.matched) == (0, 1)
    assert bob.group_margin == pytest.approx(-0.2)
    assert bob.mixed_up is False


def test_without_a_face_nothing_is_said_of_a_person() -> None:
    ada, bob = people_seen([RIGHT], np.array([[0.1, 0.6]]), HALVES, 64, 64)
    assert (ada.in_region, ada.matched, ada.mixed_up) == (None, None, None)
    assert math.isnan(ada.identity)
    assert math.isnan(ada.identity_in_region)
    assert (bob.in_region, bob.matched) == (0, 0)
    nobody = people_seen([], np.empty((0, 2)), HALVES, 64, 64)
    assert [one.matched for one in nobody] == [None, None]


def test_a_face_between_regions_is_in_neither_and_the_larger_of_two_counts() -> None:
    quarters: list[Region] = [(0.0, 0.0, 0.25, 1.0), (0.75, 0.0, 1.0, 1.0)]
    middle, small = np.array([20.0, 8, 44, 30]), np.array([0.0, 50, 6, 58])
    seen = people_seen([middle], np.array([[0.9, 0.1]]), quarters, 64, 64)
    assert [one.in_region for one in seen] == [None, None]
    ada, _ = people_seen([small, LEFT], AS_ASKED, HALVES, 64, 64)
    assert ada.in_region == 1


def test_a_face_reaches_over_the_edge_and_regions_may_be_masks() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 32:] = True
    beyond = np.array([50.0, -6, 72, 20])
    ada, bob = people_seen([beyond], np.array([[0.2, 0.6]]), [~mask, mask], 64, 64)
    assert (ada.in_region, bob.in_region) == (None, 0)


def test_a_bystander_who_is_nobody_is_no_mix_up_and_a_group_of_one_has_no_margin() -> None:
    (one,) = people_seen([LEFT], np.array([[0.3]]), [(0.0, 0.0, 1.0, 1.0)], 64, 64)
    assert (one.mixed_up, one.identity) == (False, 0.3)
    assert math.isnan(one.group_margin)
    far = np.array([26.0, 40, 31, 46])
    cosines = np.array([[0.1, 0.0], [0.7, 0.2], [0.1, 0.6]])
    ada, _ = people_seen([LEFT, far, RIGHT], cosines, HALVES, 64, 64)
    assert (ada.in_region, ada.matched, ada.mixed_up) == (0, 1, False)


def test_numbers_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2\), allowed: \(2, 2\)"):
        people_seen([LEFT, RIGHT], np.array([[0.1, 0.2]]), HALVES, 64, 64)
