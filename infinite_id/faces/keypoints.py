"""Five keypoints of a face as a control picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_kps"]

# As InstantID draws them: eyes and corners of the mouth each joined with the nose.
_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
_LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
_STICK, _DOT, _DIM = 4, 10, 0.6


def draw_kps(
    keypoints: Sequence[Sequence[float]] | NDArray[Any], height: int, width: int
) -> NDArray[np.uint8]:
    """Five keypoints of a face as InstantID draws them: uint8 (height, width, 3) RGB.

    Args:
        keypoints: (5, 2), x and y in pixels: eyes, nose, corners of the mouth, left to right as
            seen, as `FaceRecord.landmarks` has them.
        height, width: of the picture in pixels.

    Raises:
        ValueError: not five points, or one outside the picture.
    """
    try:
        points = np.asarray(keypoints, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(
            f"keypoints have the shape {points.shape}, allowed: (5, 2), x and y of eyes, nose and "
            "corners of the mouth"
        )
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(
                f"keypoint is ({x:g}, {y:g}), allowed: inside the picture of {width} x {height} px"
            )
    drawn = np.zeros((height, width, 3), dtype=np.uint8)
    for first, second in _LIMBS:
        (x0, y0), (x1, y1) = points[first], points[second]
        length, angle = math.hypot(x0 - x1, y0 - y1), math.degrees(math.atan2(y0 - y1, x0 - x1))
        middle = (int((x0 + x1) / 2), int((y0 + y1) / 2))
        shape = cv2.ellipse2Poly(middle, (int(length / 2), _STICK), int(angle), 0, 360, 1)
        cv2.fillConvexPoly(drawn, np.asarray(shape), _COLOURS[first])
    drawn = (drawn * _DIM).astype(np.uint8)
    for (x, y), colour in zip(points, _COLOURS, strict=True):
        cv2.circle(drawn, (int(x), int(y)), _DOT, colour, -1)
    return drawn
