"""Whether a method keeps the person: margin to the others, rank-1 recognition, by person.

A cosine alone says little: faces that resemble everybody have high ones. The margin is the cosine
of a picture's largest face to the person asked for less its mean cosine to everybody else of the
run; rank-1 is the share of pictures whose most similar person is the right one. Both are by
FaceNet, on which no method conditions. Where a run has further networks of identity, they are also
by each of these and by the mean of all cosines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.run_data import RunData
from eval.stats import summarise
from eval.units import units_of_samples

__all__ = ["MEAN", "Judge", "identity_of_methods"]

MEAN = "mean"
"""Name of the judge that is the mean of all others' cosines."""

Features = NDArray[np.float32]
# Of more people than this the ones with the lowest margin are listed.
_MOST_PEOPLE = 200


@dataclass(frozen=True, slots=True)
class Judge:
    """What one network of identity sees of a run.

    Attributes:
        name, revision: of the network.
        faces: (N, D) features of the pictures' largest faces; NaN without a face.
        used: person -> (K, D) features of the photos that conditioned.
        held_out: person -> (K, D) of other photos, which judge where there are any.
        warning: why its numbers are no judgement, in words; empty where they are.
    """

    name: str
    revision: str
    faces: Features
    used: Mapping[str, Features]
    held_out: Mapping[str, Features]
    warning: str = ""

    def cosines(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(N, people) of each picture's face to each person; NaN without a face."""
        known = np.stack([_mean(self.held_out.get(name, self.used[name])) for name in names])
        if self.faces.shape[1] != known.shape[1]:  # no picture shows a face
            return np.full((len(self.faces), len(names)), np.nan)
        return np.asarray(self.faces.astype(np.float64) @ known.T)


def identity_of_methods(
    data: RunData,
    rows: NDArray[np.int64],
    judges: Sequence[Judge],
    originals: Mapping[str, str],
) -> dict[str, Any] | None:
    """Margin and rank-1 of each method, by each network.

    Args:
        data: the run.
        rows: (N,) of `data.samples`: the pictures looked at.
        judges: one or more, of the same people; the first is FaceNet.
        originals: identity -> the person that it is a variant of; that person judges it.

    Returns:
        "people" (candidates), "chance" of rank-1, "held_out" (people judged by photos that
        conditioned nothing), "methods" by the first judge: name -> "margin", "rank1" (as `Summary`)
        and "by_person"; "networks": name -> "revision", "warning" and "methods" by each judge and
        by their mean, empty where there is but one; None with fewer than two people.
    """
    used, held_out = judges[0].used, judges[0].held_out
    names = [name for name in used if name not in originals]
    if len(names) < 2:
        return None
    number = {name: place for place, name in enumerate(names)}
    asked = data.samples["identity_id"][rows].astype(str)
    person = np.array([originals.get(name, name) for name in asked.tolist()], dtype=str)
    # Mixes are nobody in particular.
    right = np.array([number.get(name, -1) for name in person.tolist()], dtype=np.int64)
    cosines = {one.name: one.cosines(names) for one in judges}
    methods = {
        judge: _methods(data, rows, found, right, person) for judge, found in cosines.items()
    }
    networks: dict[str, Any] = {}
    if len(judges) > 1:
        mean = np.mean(list(cosines.values()), axis=0)
        methods[MEAN] = _methods(data, rows, mean, right, person)
        about = {one.name: (one.revision, one.warning) for one in judges}
        about[MEAN] = (
            " + ".join(one.revision for one in judges),
            "; ".join(f"{one.name}: {one.warning}" for one in judges if one.warning),
        )
        for name, (revision, warning) in about.items():
            short = {
                method: {key: found[key] for key in ("margin", "rank1")}
                for method, found in methods[name].items()
            }
            networks[name] = {"revision": revision, "warning": warning, "methods": short}
    return {
        "people": len(names),
        "chance": 1 / len(names),
        "held_out": sum(name in held_out for name in names),
        "methods": methods[judges[0].name],
        "networks": networks,
    }


def _methods(
    data: RunData,
    rows: NDArray[np.int64],
    cosines: NDArray[np.float64],
    right: NDArray[np.int64],
    person: NDArray[np.str_],
) -> dict[str, Any]:
    """Method -> "margin", "rank1" and "by_person", of cosines (N, people)."""
    own = cosines[np.arange(len(rows)), right]
    margin = own - (cosines.sum(axis=1) - own) / (cosines.shape[1] - 1)
    first = np.where(np.isnan(own), np.nan, np.argmax(np.nan_to_num(cosines), axis=1) == right)
    methods = {}
    for name in data.names("method"):
        mine = (data.samples["method"][rows] == name) & (right >= 0)
        chosen = rows[mine]
        units = units_of_samples(data.samples, chosen)
        pictures = data.samples["picture"][chosen]
        methods[name] = {
            "margin": asdict(summarise(margin[mine], person[mine], units, pictures=pictures)),
            "rank1": asdict(
                summarise(first[mine], person[mine], units, pictures=pictures, rate=True)
            ),
            "by_person": _by_person(person[mine], margin[mine], first[mine]),
        }
    return methods


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
