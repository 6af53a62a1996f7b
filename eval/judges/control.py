"""People to try a judge on: whether it tells them apart at all.

`control_people.webp` holds aligned faces of six people who do not exist, a row a person, three
portraits each: those of `tests/assets`, whose README says where they come from.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["control_auc", "control_people"]

Picture = NDArray[np.uint8]

_EDGE = 112


@lru_cache(maxsize=1)
def control_people() -> list[list[Picture]]:
    """Aligned faces uint8 (112, 112, 3) RGB, portraits by person."""
    data = resources.files("eval").joinpath("data", "control_people.webp").read_bytes()
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    rows, columns = sheet.shape[0] // _EDGE, sheet.shape[1] // _EDGE
    return [
        [
            sheet[row * _EDGE : (row + 1) * _EDGE, column * _EDGE : (column + 1) * _EDGE]
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def control_auc(embed: Callable[[Sequence[Picture]], NDArray[np.float32]]) -> float:
    """Chance that two portraits of one person are more alike than portraits of two people.

    1: always; 0.5: the judge sees no people; ties count half.

    Args:
        embed: aligned faces to float32 (N, width), unit norm.
    """
    people = control_people()
    who = np.repeat(np.arange(len(people)), [len(portraits) for portraits in people])
    features = np.asarray(embed([crop for portraits in people for crop in portraits]))
    above = np.triu_indices(len(who), 1)
    cosine = (features @ features.T)[above]
    same = (who[:, None] == who[None, :])[above]
    gap = cosine[same][:, None] - cosine[~same][None, :]
    return float((gap > 0).mean() + (gap == 0).mean() / 2)
