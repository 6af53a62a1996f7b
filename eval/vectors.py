"""Directions of feature vectors."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["cosine", "unit_rows"]


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Of two vectors (width,); NaN where one is 0."""
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.dot(a, b)) / norms if norms > 0 else math.nan


def unit_rows(features: ArrayLike) -> NDArray[np.float64]:
    """float64 (N, D) of unit norm; rows of zeros stay zeros.

    Raises:
        ValueError: not of shape (N, D).
    """
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"features have shape {rows.shape}, allowed: (N, D)")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.maximum(norms, np.finfo(np.float64).tiny)
    return unit
