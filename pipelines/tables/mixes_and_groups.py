"""Manifests of several people: mixes, who are as one, and groups, who stand in one picture. Light:
no torch.

A group's row is read as it is written; what cannot be made of it is one reject of a run, not the
end of it (`group_fault`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from infinite_id.regions import check_regions

__all__ = [
    "check_groups",
    "check_mixes",
    "group_fault",
    "group_regions",
    "with_parts",
    "with_people",
]

_REGIONS = "auto, or x0, y0, x1, y1 in fractions of the picture for each person"


def with_parts(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row of mixes whose parts may be written as {id: weight} or "id:weight; id:weight".

    Raises:
        ValueError: they are something else; names `where`.
    """
    parts = row["parts"]
    if isinstance(parts, str):
        pairs = [part.partition(":") for part in parts.split(";") if part.strip()]
        parts = {name.strip(): weight or "1" for name, _, weight in pairs}
    if isinstance(parts, Mapping):
        parts = [{"identity_id": name, "weight": weight} for name, weight in parts.items()]
    try:
        found = [
            {"identity_id": str(p["identity_id"]), "weight": float(p["weight"])} for p in parts
        ]
    except (TypeError, KeyError, ValueError):
        raise ValueError(
            f"{where}, column 'parts': value is {parts!r}, allowed: identity_id: weight pairs"
        ) from None
    return {**row, "parts": found}


def with_people(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row of groups whose people may be written as "id; id" and regions as "auto" or
    "x0,y0,x1,y1; x0,y0,x1,y1".

    Raises:
        ValueError: they are something else; names `where`.
    """
    people, regions = row.get("people"), row.get("regions")
    if isinstance(people, str):
        people = [name.strip() for name in people.split(";") if name.strip()]
    if not isinstance(people, list) or not all(isinstance(name, str) for name in people):
        raise ValueError(
            f"{where}, column 'people': value is {row.get('people')!r}, allowed: identity_ids as "
            "text, in the order of the regions"
        )
    given = regions
    if isinstance(regions, str):
        text = regions.strip()
        boxes = [re.split(r"[,\s]+", box.strip()) for box in text.split(";") if box.strip()]
        regions = None if text.lower() == "auto" else boxes
    try:
        found = None if regions is None else [[float(side) for side in box] for box in regions]
    except (TypeError, ValueError):
        found = [[]]
    if found is not None and not all(len(box) == 4 for box in found):
        raise ValueError(f"{where}, column 'regions': value is {given!r}, allowed: {_REGIONS}")
    return {**row, "people": people, "regions": found}


def check_mixes(table: pa.Table, where: str) -> None:
    """Raises a ValueError that names the first row whose mode, people or weights do not fit."""
    for row, mix in enumerate(table.to_pylist()):
        if mix["mode"] not in ("interpolate", "stack"):
            raise ValueError(
                f"{where}, row {row}, column 'mode': value is {mix['mode']!r}, "
                "allowed: interpolate, stack"
            )
        if len(mix["parts"]) < 2:
            raise ValueError(f"{where}, row {row}, column 'parts': allowed: 2 or more people")
        total = sum(part["weight"] for part in mix["parts"])
        if mix["mode"] == "interpolate" and not abs(total - 1.0) <= 1e-6:
            raise ValueError(
                f"{where}, row {row}, column 'parts': weights sum to {total:g}, allowed: 1"
            )


def check_groups(table: pa.Table, where: str, people: Collection[str] | None = None) -> None:
    """Raises a ValueError that names the first group that a run would reject.

    Args:
        table: of groups.
        where: what the message calls it.
        people: of the run; None: not known.
    """
    for row, group in enumerate(table.to_pylist()):
        fault = group_fault(group, people)
        if fault is not None:
            raise ValueError(f"{where}, row {row}: {fault[1]}")


def group_fault(
    group: Mapping[str, Any], people: Collection[str] | None = None
) -> tuple[str, str] | None:
    """(reason, sentence) why no picture can be made of a row of groups; None: one can.

    Args:
        group: the row.
        people: of the run; None: not known.
    """
    name, members = f"group {group['group_id']!r}", group["people"]
    if not members:
        return "people", f"{name} has 0 people, allowed: 1 or more"
    twice = next((one for one in members if members.count(one) > 1), None)
    if twice is not None:
        return "people", f"{name} has the person {twice!r} twice, allowed: each person once"
    unknown = next((one for one in members if people is not None and one not in people), None)
    if unknown is not None:
        return (
            "unknown_person",
            f"{name} has the person {unknown!r}, who is no identity of this run",
        )
    regions = group_regions(group["regions"])
    if regions is not None:
        try:
            check_regions(regions, len(members))
        except ValueError as error:
            return "regions", f"{name}: {error}"
    return None


def group_regions(
    regions: list[list[float]] | None,
) -> tuple[tuple[float, float, float, float], ...] | None:
    """A cell of `regions` as `infinite_id.types.IdentityGroup` has it; None: the generator's."""
    if regions is None:
        return None
    return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in regions)
