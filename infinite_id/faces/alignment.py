"""Where the landmarks of an aligned face lie, and the transform that brings them there.

Numpy alone: training on a data pack aligns faces on machines without OpenCV.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIGNED_SIZE", "ARCFACE_TEMPLATE", "similarity_transform"]

ALIGNED_SIZE = 112

ARCFACE_TEMPLATE: NDArray[np.float32] = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)
"""Landmarks of an aligned face, (5, 2) x y in a 112 px square; order as in `Detection`."""


def similarity_transform(
    source: NDArray[np.floating], target: NDArray[np.floating]
) -> NDArray[np.float64]:
    """float64 (2, 3) `[s R | t]`, the least-squares similarity from source to target points.

    Args:
        source, target: (N, 2) points, N >= 2.

    Raises:
        ValueError: shapes differ, are not (N, 2), or the source points coincide.
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
        raise ValueError(
            f"points have shapes {source.shape} and {target.shape}, allowed: twice the same (N, 2)"
        )
    x, y = source.astype(np.float64), target.astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    variance = x.var(axis=0).sum()
    if not variance > 0:
        raise ValueError("source points coincide or are not finite, no transform exists")
    u, d, vt = np.linalg.svd((y - y_mean).T @ (x - x_mean) / len(x))
    # No reflection: a mirrored face is another face.
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / variance
    shift = y_mean - scale * rotation @ x_mean
    return np.hstack([scale * rotation, shift[:, None]])
