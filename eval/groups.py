"""Who is where in a picture of several people.

Faces are given out to people twice, each time as a whole (Hungarian method, Kuhn 1955): by place,
so that most of the faces' area lies in the regions of their people, and by identity, so that the
sum of cosines is largest. Where the two do not agree, a face is in another person's region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from eval.picture_batch import PictureBatch
from infinite_id.regions import Region, region_map

__all__ = ["INSIDE", "PersonSeen", "group_rows", "people_seen"]

INSIDE = 0.5
"""Share of a face's box that has to lie in a region for the face to be there."""

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class PersonSeen:
    """What a picture shows of one person of its group.

    Attributes:
        in_region: number of the face that lies in the person's region; None: there is none, or the
            regions are not known.
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


def group_rows(
    batch: PictureBatch,
    number: int,
    people: Sequence[Sequence[NDArray[np.uint8]]],
    regions: Sequence[Region] | None,
) -> list[dict[str, Any]]:
    """What one picture of a batch shows of each person of its group, by FaceNet.

    Args:
        batch: whose networks have "faces" and "facenet".
        number: of the picture.
        people: aligned faces of each, uint8 (112, 112, 3).
        regions: of each; None: not known.

    Returns:
        One dictionary a person: "number", "faces" of the picture, "region", "face_in_region" and
        "matched_face" as boxes in fractions of the picture (None: none, or a mask), and the values
        of `PersonSeen`.
    """
    height, width = batch.images[number].shape[:2]
    faces = batch.faces[number]
    known = [
        np.mean(batch.networks.facenet_reference(list(photos)), axis=0, dtype=np.float64)
        for photos in people
    ]
    unit = np.stack([one / np.linalg.norm(one) for one in known])
    cosines = batch.facenet_features[number].astype(np.float64).reshape(len(faces), -1)
    cosines = cosines @ unit.T if faces else np.empty((0, len(people)))
    boxes = [face.bbox for face in faces]
    scale = np.array([width, height, width, height], dtype=np.float64)

    def box(face: int | None) -> list[float] | None:
        return None if face is None else (boxes[face] / scale).tolist()

    return [
        {
            "number": place,
            "faces": len(faces),
            "region": _told(None if regions is None else regions[place]),
            "face_in_region": box(one.in_region),
            "matched_face": box(one.matched),
            "identity": one.identity,
            "group_margin": one.group_margin,
            "identity_in_region": one.identity_in_region,
            "mixed_up": one.mixed_up,
        }
        for place, one in enumerate(people_seen(boxes, cosines, regions, height, width))
    ]


def _told(region: Region | None) -> list[float] | None:
    if region is None or isinstance(region, np.ndarray):
        return None
    return [float(side) for side in region]


def people_seen(
    boxes: Sequence[Floats],
    cosines: Floats,
    regions: Sequence[Region] | None,
    height: int,
    width: int,
) -> list[PersonSeen]:
    """One entry a person.

    Args:
        boxes: F face boxes x0 y0 x1 y1 in pixels; they may reach over the picture's edge.
        cosines: (F, P) of each face to each person.
        regions: P, see `infinite_id.regions`; None: not known.
        height, width: of the picture in pixels.

    Raises:
        ValueError: the numbers of faces or people differ.
    """
    people = cosines.shape[1] if regions is None else len(regions)
    if cosines.shape != (len(boxes), people):
        raise ValueError(
            f"cosines have the shape {cosines.shape}, allowed: ({len(boxes)}, {people}), "
            "faces and people"
        )
    maps = [region_map(one, height, width, edge=0.0) for one in regions or ()]
    area = np.array([[_inside(box, one) for one in maps] for box in boxes])
    placed = _given_out(area.reshape(cosines.shape)) if maps else {}
    matched = _given_out(cosines + 2.0)  # above 0, so that whoever can have a face has one
    owner = {face: person for person, face in matched.items()}
    found = []
    for person in range(people):
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
