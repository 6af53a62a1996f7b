"""Which requests of a run were answered by one and the same picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.pictures import open_picture

if TYPE_CHECKING:
    from eval.run_data import RunData

__all__ = ["distinct_pictures"]

# Texts and seeds of a method whose pictures are compared between two people.
_PROBES = 4


def distinct_pictures(data: RunData) -> NDArray[np.int64]:
    """(N,) numbers of pictures: requests that differ in the person alone may share one.

    Requests of equal person, text, style and seed, which begin with the same picture and are held
    to the same, are one picture, whatever their prompts' ids. A
    method that does not look at the person, such as `text_only`, makes one picture for all of
    them. Of each method four texts and seeds are looked at, in pictures of two people each; where
    all have equal pixels, the method's pictures of equal text and seed count as one. (Their bytes
    differ: the mark of AI origin names the request.)
    """
    numbers = np.arange(len(data), dtype=np.int64)
    groups: dict[tuple[Any, ...], list[int]] = {}
    names = ("method", "prompt", "style", "seed", "given")
    columns = (data.samples[name].tolist() for name in names)
    people = data.samples["identity_id"].tolist()
    first: dict[tuple[Any, ...], int] = {}
    for row, key in enumerate(zip(*columns, strict=True)):
        groups.setdefault(key, []).append(row)
        numbers[row] = first.setdefault((*key, people[row]), row)
    probes: dict[str, list[list[int]]] = {}
    for (method, *_), rows in groups.items():
        of_people = {people[row]: row for row in rows if data.samples["has_image"][row]}
        made = list(of_people.values())
        if len(made) > 1 and len(probes.setdefault(method, [])) < _PROBES:
            probes[method].append(made[:2])
    ids = data.samples["sample_id"]
    wanted = [ids[row] for pairs in probes.values() for pair in pairs for row in pair]
    pixels = {name: _pixels(encoded) for name, encoded in data.pictures(wanted)}
    shared = {
        method
        for method, pairs in probes.items()
        if pairs and all(_equal(pixels.get(ids[a]), pixels.get(ids[b])) for a, b in pairs)
    }
    for (method, *_), rows in groups.items():
        if method in shared:
            numbers[rows] = rows[0]
    return numbers


def _pixels(encoded: bytes) -> NDArray[np.uint8] | None:
    picture = open_picture(encoded)
    return None if picture is None else np.asarray(picture)


def _equal(one: NDArray[np.uint8] | None, other: NDArray[np.uint8] | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)
