"""Who is where in a picture of several people.

Faces are given out to people twice, each time as a whole (Hungarian method, Kuhn 1955): by place,
so that most of the faces' area lies in the regions of their people, and by identity, so that the
sum of cosines is largest. Where the two do not agree, a face is in another person's region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from infinite_id.regions import Region, region_map

__all__ = ["INSIDE", "PersonSeen", "people_seen"]

INSIDE = 0.5
"""Share of a face's box that has to lie in a region for the face to be there."""

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class PersonSeen:
    """What a picture shows of one person of its group.

    Attributes:
        in_region: number of the face that lies in the person's region; None: there is none.
        matched: number of the face that is the person's by identity; None: fewer faces than people.
        identity: cosine of the matched face to the person; NaN without one.
        group_margin: that, less the highest cosine of that face to another person of the group;
            NaN without a face, or without another person.
        identity_in_region: cosine of the face in the region to the person; NaN without one.
        mixed_up: the face in the region is another one's of the group, by identity; None without a
            face there.
    """

    in_region: int | None
    matched: int | None
    identity: float
    group_margin: float
    identity_in_region: float
    mixed_up: bool | None


def people_seen(
    boxes: Sequence[Floats], cosines: Floats, regions: Sequence[Region], height: int, width: int
) -> list[PersonSeen]:
    """One entry a person.

    Args:
        boxes: F face boxes x0 y0 x1 y1 in pixels; they may reach over the picture's edge.
        cosines: (F, P) of each face to each person.
        regions: P, see `infinite_id.regions`.
        height, width: of the picture in pixels.

    Raises:
        ValueError: the numbers of faces or people differ.
    """
    if cosines.shape != (len(boxes), len(regions)):
        raise ValueError(
            f"cosines have the shape {cosines.shape}, allowed: ({len(boxes)}, {len(regions)}), "
            "faces and regions"
        )
    area = np.array([[_inside(box, one) for one in _maps(regions, height, width)] for box in boxes])
    placed = _given_out(area.reshape(cosines.shape))
    matched = _given_out(cosines + 2.0)  # above 0, so that whoever can have a face has one
    owner = {face: person for person, face in matched.items()}
    found = []
    for person in range(len(regions)):
        here, own = placed.get(person), matched.get(person)
        identity = margin = identity_in_region = math.nan
        mixed_up = None
        if own is not None:
            identity = float(cosines[own, person])
            others = np.delete(cosines[own], person)
            margin = identity - float(others.max()) if len(others) else math.nan
        if here is not None:
            identity_in_region = float(cosines[here, person])
            mixed_up = owner.get(here, person) != person
        found.append(PersonSeen(here, own, identity, margin, identity_in_region, mixed_up))
    return found


def _maps(regions: Sequence[Region], height: int, width: int) -> list[NDArray[np.float32]]:
    return [region_map(one, height, width, edge=0.0) for one in regions]


def _inside(box: Floats, map_: NDArray[np.float32]) -> float:
    """Pixels of the box that lie in the region; 0 where that is less than `INSIDE` of them."""
    height, width = map_.shape
    x0, y0, x1, y1 = (round(float(side)) for side in box)
    seen = map_[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    return float(seen.sum()) if seen.size and float(seen.mean()) >= INSIDE else 0.0


def _given_out(values: Floats) -> dict[int, int]:
    """Person -> face, of values (faces, people): the largest sum; nothing worth 0 is given out."""
    faces, people = linear_sum_assignment(values, maximize=True)
    pairs = zip(faces.tolist(), people.tolist(), strict=True)
    return {person: face for face, person in pairs if values[face, person] > 0}
