"""Whether a method keeps the person: margin to the others, rank-1 recognition, by person.

A cosine alone says little: faces that resemble everybody have high ones. The margin is the cosine
of a picture's largest face to the person asked for less its mean cosine to everybody else of the
run; rank-1 is the share of pictures whose most similar person is the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.run_data import RunData
from eval.stats import summarise
from eval.units import units_of

__all__ = ["identity_of_methods"]

Features = NDArray[np.float32]
# Of more people than this the ones with the lowest margin are listed.
_MOST_PEOPLE = 200


def identity_of_methods(
    data: RunData,
    rows: NDArray[np.int64],
    faces: Features,
    used: Mapping[str, Features],
    held_out: Mapping[str, Features],
    originals: Mapping[str, str],
) -> dict[str, Any] | None:
    """Margin and rank-1 of each method.

    Args:
        data: the run.
        rows: (N,) of `data.samples`: the pictures looked at.
        faces: (N, D) features of their largest faces; NaN without a face.
        used: person -> (K, D) features of the photos that conditioned.
        held_out: person -> (K, D) of other photos, which judge where there are any.
        originals: identity -> the person that it is a variant of; that person judges it.

    Returns:
        "people" (candidates), "chance" of rank-1, "held_out" (people judged by photos that
        conditioned nothing), "methods": name -> "margin", "rank1" (as `Summary`) and
        "by_person"; None with fewer than two people.
    """
    names = [name for name in used if name not in originals]
    if len(names) < 2:
        return None
    number = {name: place for place, name in enumerate(names)}
    known = np.stack([_mean(held_out.get(name, used[name])) for name in names])
    asked = data.samples["identity_id"][rows].astype(str)
    person = np.array([originals.get(name, name) for name in asked.tolist()], dtype=str)
    # Mixes are nobody in particular.
    right = np.array([number.get(name, -1) for name in person.tolist()], dtype=np.int64)
    cosines = faces.astype(np.float64) @ known.T
    own = cosines[np.arange(len(rows)), right]
    margin = own - (cosines.sum(axis=1) - own) / (len(names) - 1)
    first = np.where(np.isnan(own), np.nan, np.argmax(np.nan_to_num(cosines), axis=1) == right)
    methods = {}
    for name in data.names("method"):
        mine = (data.samples["method"][rows] == name) & (right >= 0)
        chosen = rows[mine]
        units = units_of(*(data.samples[k][chosen] for k in ("prompt_id", "style", "seed")))
        pictures = data.samples["picture"][chosen]
        methods[name] = {
            "margin": asdict(summarise(margin[mine], person[mine], units, pictures=pictures)),
            "rank1": asdict(
                summarise(first[mine], person[mine], units, pictures=pictures, rate=True)
            ),
            "by_person": _by_person(person[mine], margin[mine], first[mine]),
        }
    return {
        "people": len(names),
        "chance": 1 / len(names),
        "held_out": sum(name in held_out for name in names),
        "methods": methods,
    }


def _by_person(
    person: NDArray[np.str_], margin: NDArray[np.float64], first: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """One entry a person, the lowest margin first."""
    found = []
    for name in np.unique(person).tolist():
        seen = (person == name) & ~np.isnan(margin)
        found.append(
            {
                "person": name,
                "margin": float(margin[seen].mean()) if seen.any() else None,
                "rank1": float(first[seen].mean()) if seen.any() else None,
                "n": int(seen.sum()),
                "without_face": int((person == name).sum() - seen.sum()),
            }
        )
    found.sort(key=lambda one: -np.inf if one["margin"] is None else one["margin"])
    return found[:_MOST_PEOPLE]


def _mean(features: Features) -> NDArray[np.float64]:
    mean = features.astype(np.float64).mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float64)
