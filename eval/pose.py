"""Which way a head is turned, from five landmarks: yaw, pitch and roll.

The pose from orthography and scaling (DeMenthon & Davis, "Model-based object pose in 25 lines of
code", IJCV 15, 1995, the step before its iteration): with the points M (5, 3) of a head and their
places x (5, 2) in the picture, both less their means, the rows I, J of the scaled rotation solve
M I = x_1, M J = x_2 in the least squares; i = I / |I|, j is J made perpendicular to i, k = i x j.

The head is the mean face of the alignment template (63 mm between the eyes) with the depths of a
mean head. People's heads differ from it, so that an angle may be off by some degrees; of two
pictures of one person the difference is better known than either.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infinite_id.faces.alignment import ARCFACE_TEMPLATE

__all__ = ["HEAD", "head_pose", "turned_landmarks"]

_EYES_MM = 63.0
# Towards the viewer: eyes, nose tip, corners of the mouth.
_DEPTHS_MM = (0.0, 0.0, 30.0, 5.0, 5.0)


def _head() -> NDArray[np.float64]:
    flat = ARCFACE_TEMPLATE.astype(np.float64)
    flat -= flat[:2].mean(axis=0)
    # Both sides alike: the template's are not, by a pixel.
    even = (flat + flat[[1, 0, 2, 4, 3]] * [-1, 1]) / 2
    even *= _EYES_MM / (even[1, 0] - even[0, 0])
    return np.column_stack([even, -np.array(_DEPTHS_MM)])


HEAD: NDArray[np.float64] = _head()
"""Landmarks of a head that looks at the viewer, (5, 3) mm from between the eyes: x right, y down, z
away; order as in `Detection`: eyes left to right as seen, nose, corners of the mouth likewise."""


def turned_landmarks(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """(5, 2): x and y of the landmarks of `HEAD`, turned and seen from afar, in mm from between
    its eyes; `head_pose` of them is (yaw, pitch, roll).

    Args:
        yaw, pitch, roll: degrees, signs as of `head_pose`.
    """
    a, b, g = np.radians([-yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    in_plane = np.array([[np.cos(g), -np.sin(g), 0], [np.sin(g), np.cos(g), 0], [0, 0, 1]])
    return np.asarray((HEAD @ (in_plane @ about_x @ about_y).T)[:, :2], np.float64)


def head_pose(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """(yaw, pitch, roll) in degrees; NaN where the points lie in one.

    Yaw is positive where the head is turned to the picture's right, pitch where it looks down,
    roll where it leans clockwise.

    Args:
        landmarks: (5, 2) x y in pixels, order as in `Detection`.

    Raises:
        ValueError: not of that shape.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (5, 2):
        raise ValueError(f"landmarks have shape {points.shape}, allowed: (5, 2)")
    model = HEAD - HEAD.mean(axis=0)
    rows, *_ = np.linalg.lstsq(model, points - points.mean(axis=0), rcond=None)
    across, down = rows.T
    size = np.linalg.norm(across)
    if not size > 0 or not np.linalg.norm(down) > 0:
        return np.full(3, np.nan)
    i = across / size
    j = down - (down @ i) * i
    j /= np.linalg.norm(j)
    k = np.cross(i, j)
    # R = Rz(roll) Rx(pitch) Ry(-yaw), rows i, j, k; the nose is nearer than the eyes.
    yaw = np.arctan2(k[0], k[2])
    pitch = np.arcsin(np.clip(k[1], -1, 1))
    roll = np.arctan2(-i[1], j[1])
    return np.degrees(np.array([yaw, pitch, roll]))
