"""What an interval of a run generalises over: people, and prompts or seeds where enough vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Units", "units_of", "units_of_samples"]

# Fewer prompts than this, or fewer repeated seeds, carry no statement about others of their kind.
LEAST_PROMPTS = 4
LEAST_SEED_FREEDOM = 3


@dataclass(frozen=True, slots=True)
class Units:
    """The second dimension of a table, beside the people.

    Attributes:
        unit: (N,) int64, the prompt or the seed within a prompt of each value.
        stratum: (N,) int64, the prompt and style within which units are compared; all 0 where
            prompts themselves are the units.
        over: what an interval generalises over, in words.
        known: whether units vary enough to be counted; without it people alone are.
    """

    unit: NDArray[np.int64]
    stratum: NDArray[np.int64]
    over: str
    known: bool

    def __getitem__(self, rows: NDArray[Any]) -> Units:
        """Of some of the values: a mask or row numbers."""
        return Units(self.unit[rows], self.stratum[rows], self.over, self.known)


def units_of(
    prompts: Sequence[str] | NDArray[Any],
    styles: Sequence[str] | NDArray[Any],
    seeds: Sequence[int] | NDArray[Any],
) -> Units:
    """Prompts where there are enough of them, else the seeds of each prompt and style.

    Args:
        prompts, styles, seeds: (N,) of each value.
    """
    prompt = _numbers(prompts)
    stratum = prompt * 1_000_003 + _numbers(styles)
    _, stratum = np.unique(stratum, return_inverse=True)
    if len(np.unique(prompt)) >= LEAST_PROMPTS:
        return Units(prompt, np.zeros_like(prompt), "people and prompts", True)
    cells, unit = np.unique(
        np.stack([stratum, _numbers(seeds)], axis=1).reshape(-1, 2), axis=0, return_inverse=True
    )
    seeds_each = np.bincount(cells[:, 0]) if len(cells) else np.zeros(0, dtype=np.int64)
    freedom = len(cells) - len(seeds_each)
    if len(seeds_each) and seeds_each.min() >= 2 and freedom >= LEAST_SEED_FREEDOM:
        return Units(unit.reshape(-1), stratum, "people and seeds, for these prompts only", True)
    return Units(unit.reshape(-1), stratum, "people, for these prompts and seeds only", False)


def units_of_samples(samples: Mapping[str, NDArray[Any]], rows: NDArray[Any]) -> Units:
    """`units_of` some rows of a run; prompts of one text that begin with the same picture and are
    held to the same are one prompt, whatever their ids.

    Args:
        samples: columns prompt_id, prompt (the whole text, with the person's word and the style's),
            given (see `eval.run_data.RunData`), style and seed.
        rows: a mask or row numbers.
    """
    ids, texts, given, styles, seeds = (
        samples[name][rows] for name in ("prompt_id", "prompt", "given", "style", "seed")
    )
    first: dict[tuple[Any, ...], Any] = {}
    same: dict[Any, Any] = {}
    whole = zip(texts.tolist(), given.tolist(), styles.tolist(), strict=True)
    for one, what in zip(ids.tolist(), whole, strict=True):
        same.setdefault(one, first.setdefault(what, one))
    return units_of([same[one] for one in ids.tolist()], styles, seeds)


def _numbers(labels: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    values = np.asarray(labels)
    if values.dtype == object:
        values = values.astype(str)
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64).reshape(-1)
