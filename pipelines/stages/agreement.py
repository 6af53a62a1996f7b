"""Whether several photos of one person show one person, by the network that finds people alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Agreement", "agreement", "lowest_agreement"]

_LEAST = 0.3
"""Below this mean cosine a photo is of somebody else (docs/faces.md)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What `agreement` found.

    Attributes:
        kept: numbers of the photos to use, in their order; none of a person who is refused.
        odd: (number, sentence) of each photo that is refused.
        lowest: mean cosine of the kept photo that agrees least, None of fewer than two.
        warning: the sentence of photos that do not agree and are kept all the same.
    """

    kept: list[int]
    odd: list[tuple[int, str]]
    lowest: float | None = None
    warning: str | None = None


def agreement(
    key: str, names: Sequence[str], features: NDArray[np.float32], *, check: bool
) -> Agreement:
    """Which photos of one person to use.

    Args:
        key: of the person.
        names: of the photos, for the sentences.
        features: float32 (photos, D), unit norm, of the face embedding.
        check: refuse photos that do not agree with the others, and a person of two such photos,
            instead of warning of them.
    """
    kept, refused = list(range(len(names))), list[tuple[int, str]]()
    while len(kept) > 1:
        lowest, odd = lowest_agreement(features[kept])
        if lowest >= _LEAST:
            return Agreement(kept, refused, lowest)
        two = len(kept) == 2
        others = names[kept[1 - odd]] if two else f"the other {len(kept) - 1} photos"
        warning = (
            f"the photos of {key!r} do not agree: {names[kept[odd]]} and {others} have a cosine of "
            f"{lowest:.2f}, photos of one person have {_LEAST} or more"
        )
        if not check:
            return Agreement(kept, refused, lowest, warning)
        refused.append((kept.pop(odd), warning))
        if two:
            kept = []
    return Agreement(kept, refused)


def lowest_agreement(features: NDArray[np.float32]) -> tuple[float, int]:
    """(lowest mean cosine of a photo to the others, its number), of two or more unit vectors."""
    cosines = features @ features.T
    means = (cosines.sum(axis=1) - np.diag(cosines)) / (len(features) - 1)
    odd = int(means.argmin())
    return float(means[odd]), odd
