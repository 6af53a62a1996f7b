"""Pose from five landmarks, on a head that is turned and projected here."""

from __future__ import annotations

import numpy as np
import pytest

from eval.pose import HEAD, head_pose, turned_landmarks


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, -10, 15), (-40, 20, -60)])
def test_a_turned_head_has_the_pose_that_was_asked_for(angles):
    points = turned_landmarks(*angles)
    assert head_pose(points) == pytest.approx(angles, abs=1e-6)
    assert points * 0.7 + [300, 200] == pytest.approx(_projected(*angles))


def _projected(yaw, pitch, roll, *, distance=None):
    """The head's landmarks in a picture: turned about its own axes, then seen from afar or near."""
    a, b, g = np.radians([-yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    in_plane = np.array([[np.cos(g), -np.sin(g), 0], [np.sin(g), np.cos(g), 0], [0, 0, 1]])
    turned = HEAD @ (in_plane @ about_x @ about_y).T
    depth = 1.0 if distance is None else (turned[:, 2] + distance) / distance
    return turned[:, :2] / np.reshape(depth, (-1, 1)) * 0.7 + [300, 200]


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (30, 0, 0), (-20, 10, 0), (15, -12, 25), (0, 0, 170), (-40, 20, -60)]
)
def test_the_pose_of_a_known_head_comes_back(angles):
    assert head_pose(_projected(*angles)) == pytest.approx(angles, abs=1e-6)


def test_signs_are_those_of_the_description():
    right, down, clockwise = (_projected(*a) for a in ((20, 0, 0), (0, 20, 0), (0, 0, 20)))
    eyes = lambda points: points[:2].mean(axis=0)  # noqa: E731
    assert right[2, 0] > eyes(right)[0]  # the nose goes to the picture's right
    assert down[2, 1] - eyes(down)[1] > _projected(0, 0, 0)[2, 1] - eyes(_projected(0, 0, 0))[1]
    assert clockwise[1, 1] > clockwise[0, 1]  # the right eye, as seen, is lower


def test_a_photo_from_a_metre_is_known_to_some_degrees():
    found = head_pose(_projected(25, 10, 5, distance=1000))
    assert found == pytest.approx([25, 10, 5], abs=4)


def test_scale_and_place_do_not_matter():
    points = _projected(12, 5, -8)
    assert head_pose(points * 3 - 50) == pytest.approx(head_pose(points))


def test_points_in_one_place_have_no_pose():
    assert np.isnan(head_pose(np.zeros((5, 2)))).all()
    with pytest.raises(ValueError, match=r"shape \(4, 2\), allowed: \(5, 2\)"):
        head_pose(np.zeros((4, 2)))
