"""Who is in the pictures of a body: a person, a mix, or a group."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinite_id.prompts import group_word
from infinite_id.regions import Box, check_regions
from infinite_id.types import GenerationRequest, Identity
from pipelines.plan.requests import Subject
from pipelines.serving.bodies import GenerateBody, Member, Part
from pipelines.serving.errors import out_of_range
from pipelines.serving.people import Person
from pipelines.serving.state import State
from pipelines.serving.worker import Deadline

__all__ = ["shares_of", "subject_of"]

# Messages name a group; the ids of its people work like passwords.
_NAME = "of the request"


async def subject_of(
    state: State, deadline: Deadline, body: GenerateBody, owner: str, inline: Person | None
) -> tuple[Subject, dict[str, Identity]]:
    """Who a plan's rows would call it, and the people.

    Args:
        state: where people are kept.
        deadline: of the request.
        body: as it came; exactly one of its fields says who.
        owner: of the key.
        inline: the person of `body.photos`.

    Raises:
        ServiceError: 4xx, somebody is unknown, weights or regions do not fit; 503 or 504, people
            cannot be asked for.
    """
    named: Sequence[Part | Member] | None = body.mix or body.group
    if named is None:
        person = inline or await state.get(deadline, str(body.identity_id), owner)
        one = person.identity
        return Subject(one.identity_id, one.class_word, person.digest), {one.identity_id: one}
    what = "mix" if body.mix else "group"
    if len({one.identity_id for one in named}) < len(named):
        raise out_of_range(what, "of one person several times", "each person once")
    weights = [] if body.mix is None else _weights(body.mix, body.mix_mode)
    regions = None if body.group is None else _regions(body.group)
    persons = await asyncio.gather(*(state.get(deadline, one.identity_id, owner) for one in named))
    keys = [one.identity_id for one in named]
    people = {person.identity.identity_id: person.identity for person in persons}
    digest = "+".join(person.digest for person in persons)
    if body.mix is None:
        word = group_word([person.identity.class_word for person in persons])
        group = Subject(_NAME, word, digest, group_people=tuple(keys), group_regions=regions)
        return group, people
    pairs = list(zip(keys, weights, strict=True))
    parts = tuple({"identity_id": name, "weight": weight} for name, weight in pairs)
    name = "+".join(f"{who}:{weight:g}" for who, weight in pairs)
    word = persons[0].identity.class_word
    return Subject(name, word, digest, parts, body.mix_mode), people


def shares_of(
    request: GenerationRequest, people: Mapping[str, Identity]
) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """The faces of whom a picture shows, and each one's share: a mix is judged by its weights, and
    a group is nobody in particular, as in a report (`pipelines.stages.scoring`)."""
    if request.group is not None:
        return [], []
    parts = [(name, 1.0) for name in people] if request.mix is None else request.mix.parts
    faces: list[NDArray[np.uint8]] = []
    shares: list[float] = []
    for name, weight in parts:
        images = people[name].images
        faces += images
        shares += [weight / len(images)] * len(images)
    return faces, shares


def _regions(group: Sequence[Member]) -> tuple[Box, ...] | None:
    given: list[Any] = [tuple(one.region) for one in group if one.region is not None]
    if not given:
        return None
    if len(given) < len(group):
        told = f"given for {len(given)} of {len(group)} people"
        raise out_of_range("region", told, "one for each person, or none")
    try:
        check_regions(given, len(group))
    except ValueError as error:
        name, _, allowed = str(error).partition(", allowed: ")
        raise out_of_range("region", f"wrong ({name})", allowed) from None
    return tuple(given)


def _weights(mix: Sequence[Part], mode: str) -> list[float]:
    given = [part.weight for part in mix]
    if mode == "stack":
        if any(weight is not None for weight in given):
            raise out_of_range("mix", "a stack with weights", "no weight with mix_mode stack")
        return [1.0 for _ in mix]
    found = [weight for weight in given if weight is not None]
    if len(found) < len(given):
        raise out_of_range("mix", "without a weight for each person", "weights that sum to 1")
    if not math.isclose(sum(found), 1.0, abs_tol=1e-6):
        raise out_of_range("mix", f"weights that sum to {sum(found):g}", "weights that sum to 1")
    return found
