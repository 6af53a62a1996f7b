"""People whose faces are known to the judge: who a picture looks like besides whom it should."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["KnownPeople"]


class KnownPeople:
    """Embeddings by person, searched as a whole: 2 KB a person in memory, one product a picture.

    Args:
        keys: N people; a key that stands twice is one person with two embeddings.
        features: float32 (N, width), unit norm.

    Raises:
        ValueError: the numbers of keys and embeddings differ.
    """

    def __init__(self, keys: Sequence[str], features: NDArray[np.float32]) -> None:
        if len(keys) != len(features):
            raise ValueError(f"{len(keys)} keys and {len(features)} embeddings, allowed: as many")
        self._keys = list(keys)
        self._features = features
        self._rows: dict[str, list[int]] = {}
        for row, key in enumerate(self._keys):
            self._rows.setdefault(key, []).append(row)

    def __len__(self) -> int:
        return len(self._keys)

    def nearest(
        self, faces: NDArray[np.float32], besides: Collection[str]
    ) -> tuple[float, str | None]:
        """(cosine, person) nearest to any of a picture's faces.

        (NaN, None) without a face, which cannot be measured; (-1, None), the smallest cosine, where
        nobody else is known.

        Args:
            faces: float32 (faces, width), unit norm.
            besides: people who are meant to be in the picture.
        """
        if not len(faces):
            return float("nan"), None
        if not self._keys:
            return -1.0, None
        cosines = np.max(self._features @ faces.T, axis=1)
        for key in besides:
            cosines[self._rows.get(key, [])] = -np.inf
        best = int(np.argmax(cosines))
        if not np.isfinite(cosines[best]):
            return -1.0, None
        return float(cosines[best]), self._keys[best]
