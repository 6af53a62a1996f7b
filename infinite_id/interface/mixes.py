"""Several people as one, or in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinite_id.interface.values import as_number
from infinite_id.prompts import group_word
from infinite_id.regions import Region, check_regions
from infinite_id.types import Identity, IdentityMix

__all__ = ["GroupIdentity", "MixedIdentity", "Regions", "grouped", "mixed", "stacked"]

Regions = Literal["auto"] | Sequence[Region | Image.Image]
"""Of a group: a box or a mask a person, or "auto"."""


@dataclass(frozen=True, slots=True)
class MixedIdentity:
    """Several people as one.

    Attributes:
        people: two or more.
        weights: one a person; they sum to 1 where the mode is "interpolate".
        mode: "interpolate" or "stack", see `infinite_id.types.IdentityMix`.
    """

    people: tuple[Identity, ...]
    weights: tuple[float, ...]
    mode: Literal["interpolate", "stack"]

    @property
    def identity_id(self) -> str:
        """The people's, with weights where they count."""
        names = [one.identity_id for one in self.people]
        if self.mode == "stack":
            return "+".join(names)
        return "+".join(f"{n}:{w:g}" for n, w in zip(names, self.weights, strict=True))

    @property
    def class_word(self) -> str:
        """The people's, where they share one."""
        words = {one.class_word for one in self.people}
        return words.pop() if len(words) == 1 else "person"

    @property
    def images(self) -> tuple[NDArray[np.uint8], ...]:
        """All people's aligned faces."""
        return tuple(image for one in self.people for image in one.images)

    def parts(self, keys: Sequence[str]) -> IdentityMix:
        """The record of it, with the people under those keys."""
        return IdentityMix(tuple(zip(keys, self.weights, strict=True)), self.mode)


@dataclass(frozen=True, slots=True)
class GroupIdentity:
    """Several people in one picture.

    Attributes:
        people: in the order of their regions.
        regions: one a person, see `infinite_id.regions`; None: the generator finds them.
    """

    people: tuple[Identity, ...]
    regions: tuple[Region, ...] | None

    @property
    def identity_id(self) -> str:
        """The people's."""
        return " & ".join(one.identity_id for one in self.people)

    @property
    def class_word(self) -> str:
        """ "man and a woman": the people's, one after another."""
        return group_word([one.class_word for one in self.people])

    @property
    def images(self) -> tuple[NDArray[np.uint8], ...]:
        """All people's aligned faces."""
        return tuple(image for one in self.people for image in one.images)


def mixed(people: Sequence[Identity], weight: float | Sequence[float]) -> MixedIdentity:
    """Somebody between them: see `InfiniteIDPipeline.mix`.

    Raises:
        ValueError: fewer than two people, or weights that do not fit.
    """
    several = isinstance(weight, list | tuple | np.ndarray)
    values: list[Any] = list(weight) if several else [weight]  # type: ignore[arg-type]
    given = [as_number("weight", one) for one in values]
    weights = tuple(one for one in given if one is not None)
    if not several and len(people) == 2 and weights:
        weights = (1.0 - weights[0], weights[0])
    if len(people) < 2 or len(weights) != len(people) or not abs(sum(weights) - 1) <= 1e-6:
        raise ValueError(
            f"mix has {len(people)} people and weight {weight}, allowed: two people and a number, "
            "or several with one number each that sum to 1"
        )
    return MixedIdentity(tuple(people), weights, "interpolate")


def stacked(people: Sequence[Identity]) -> MixedIdentity:
    """The people side by side.

    Raises:
        ValueError: fewer than two.
    """
    if len(people) < 2:
        raise ValueError(f"stack has {len(people)} people, allowed: two or more")
    return MixedIdentity(tuple(people), (1.0,) * len(people), "stack")


def grouped(people: Sequence[Identity], regions: Regions) -> GroupIdentity:
    """The people as a group.

    Raises:
        ValueError: nobody, or regions that do not fit; a mask's size is checked with the picture's.
    """
    if not people:
        raise ValueError("group has 0 people, allowed: one or more")
    if isinstance(regions, str):
        if regions != "auto":
            raise ValueError(f"regions is {regions!r}, allowed: 'auto', or a region a person")
        return GroupIdentity(tuple(people), None)
    if not isinstance(regions, list | tuple):
        raise ValueError(f"regions is {regions!r}, allowed: 'auto', or a region a person")
    given = tuple(_region(one) for one in regions)
    check_regions(given, len(people))
    return GroupIdentity(tuple(people), given)


def _region(value: Any) -> Region:
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("L"))
    if isinstance(value, np.ndarray):
        return value
    try:
        box = tuple(float(side) for side in value)
    except (TypeError, ValueError):
        box = ()
    if len(box) != 4:
        raise ValueError(
            f"region is {value!r}, allowed: x0, y0, x1, y1 in fractions of the picture, or a mask "
            "of its size"
        )
    return box[0], box[1], box[2], box[3]
