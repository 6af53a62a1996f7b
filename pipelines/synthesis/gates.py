"""Which pictures of a synthesis are accepted: pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.synthesis.config import Gates

__all__ = ["REASONS", "Accepted", "refusal"]

REASONS = (
    "not_made",
    "nsfw",
    "no_face",
    "several_faces",
    "other_person",
    "identity",
    "text",
    "duplicate",
)
"""Codes of refusals, in the order in which gates are asked."""


@dataclass(slots=True)
class Accepted:
    """Perceptual hashes of the accepted pictures, by person."""

    fingerprints: dict[int, list[int]] = field(default_factory=dict)

    def add(self, person: int, fingerprint: int) -> None:
        """Remembers an accepted picture."""
        self.fingerprints.setdefault(person, []).append(fingerprint)

    def distance(self, person: int, fingerprint: int) -> int:
        """Fewest differing bits to the person's accepted pictures; 65 where there is none."""
        known = self.fingerprints.get(person)
        if not known:
            return 65
        differing = np.array(known, dtype=np.uint64) ^ np.uint64(fingerprint)
        return int(np.bitwise_count(differing).min())


def refusal(
    measured: Mapping[str, Any] | None, person: int, gates: Gates, accepted: Accepted
) -> tuple[str, str] | None:
    """(reason, sentence) why a picture is refused, None where it passes every gate.

    A measure that a gate needs and that could not be taken (NaN) refuses the picture.

    Args:
        measured: a `scores` row; None where nothing was made.
        person: number of the person.
        gates: what it has to pass.
        accepted: pictures of the same people so far.
    """
    if measured is None:
        return "not_made", "the request was rejected, see stage images"
    if gates.nsfw is not None and not measured["nsfw"] < gates.nsfw:
        value = measured["nsfw"]
        said = "not measurable" if math.isnan(value) else f"{value:.3f}"
        return "nsfw", f"nsfw is {said}, allowed: below {gates.nsfw:g}"
    if gates.one_face and measured["face_count"] != 1:
        count = measured["face_count"]
        reason = "no_face" if count < 1 else "several_faces"
        return reason, f"{count:g} faces, wanted: 1"
    other = measured["other_identity"]
    if gates.other_identity is not None and math.isnan(other):
        return "other_person", (
            f"likeness to other people is not measurable, allowed: below {gates.other_identity:g}"
        )
    if gates.other_identity is not None and other >= gates.other_identity:
        return "other_person", (
            f"cosine {other:.3f} to {measured['other_person']!r}, allowed: below "
            f"{gates.other_identity:g}"
        )
    for reason, least, column in (
        ("identity", gates.identity, "identity_facenet"),
        ("text", gates.text, "text_score"),
    ):
        if least is not None and not measured[column] >= least:
            value = measured[column]
            said = "not measurable" if math.isnan(value) else f"{value:.3f}"
            return reason, f"{column} is {said}, wanted: {least:g} or more"
    if gates.duplicate_bits is not None:
        bits = accepted.distance(person, measured["fingerprint"])
        if bits <= gates.duplicate_bits:
            return "duplicate", (
                f"{bits} of 64 bits differ from an accepted picture of the same person, wanted: "
                f"more than {gates.duplicate_bits}"
            )
    return None
