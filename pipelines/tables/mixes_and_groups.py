"""Manifests of several people: mixes, who are as one, and groups, who stand in one picture. Light:
no torch.

A group's row is read as it is written; what cannot be made of it is one reject of a run, not the
end of it (`group_fault`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyarrow as pa

from infinite_id.regions import check_regions
from pipelines.tables.table_checks import number_of

__all__ = [
    "MOST_PEOPLE",
    "as_spelled",
    "check_cells",
    "check_groups",
    "check_mixes",
    "group_fault",
    "group_regions",
    "one_spelling",
    "with_parts",
    "with_people",
]

MOST_PEOPLE = 8
"""Of a group."""

_PEOPLE = "identity_ids as text, in the order of the regions"
_REGIONS = "auto, or x0, y0, x1, y1 in fractions of the picture for each person"


def one_spelling(name: str) -> str:
    """A name in Unicode's form NFC: an accent is a part of its letter or a character of its own,
    and reads the same."""
    return unicodedata.normalize("NFC", name)


def as_spelled(table: pa.Table, people: Iterable[str]) -> pa.Table:
    """Mixes or groups whose people are spelled as the run's identities are, see `one_spelling`."""
    spelled = {one_spelling(one): one for one in people}
    rows = table.to_pylist()
    for row in rows:
        for part in row.get("parts") or ():
            name = part["identity_id"]
            part["identity_id"] = spelled.get(one_spelling(name), name)
        if "people" in row:
            row["people"] = [spelled.get(one_spelling(name), name) for name in row["people"]]
    return pa.Table.from_pylist(rows, schema=table.schema)


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
            f"{where}, column 'people': value is {row.get('people')!r}, allowed: {_PEOPLE}"
        )
    given, place = regions, f"{where}, column 'regions'"
    if isinstance(regions, str):
        text = regions.strip()
        boxes = [re.split(r"[,\s]+", box.strip()) for box in text.split(";") if box.strip()]
        regions = None if text.lower() in ("", "auto") else boxes
    if regions is not None:
        try:
            regions = [_sides(box, place) for box in _listed(regions)]
        except ValueError:
            raise ValueError(f"{place}: value is {given!r}, allowed: {_REGIONS}") from None
    return {**row, "people": people, "regions": regions}


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(value)
    return value


def _sides(box: Any, place: str) -> list[float]:
    return [number_of(side, place) for side in _listed(box)]


def check_cells(groups: pa.Table, where: str) -> None:
    """Raises a ValueError that names the first row whose people are no texts, or one of whose
    regions is not four finite numbers: such a row cannot even be kept."""
    for row, group in enumerate(groups.to_pylist()):
        place = f"{where}, row {row}, column"
        people, regions = group["people"], group["regions"]
        if not all(isinstance(name, str) for name in people):
            raise ValueError(f"{place} 'people': value is {people!r}, allowed: {_PEOPLE}")
        if not all(_is_box(box) for box in regions or ()):
            raise ValueError(f"{place} 'regions': value is {regions!r}, allowed: {_REGIONS}")


def _is_box(box: list[float | None] | None) -> bool:
    sides = box or []
    return len(sides) == 4 and all(side is not None and math.isfinite(side) for side in sides)


def check_mixes(table: pa.Table, where: str) -> None:
    """Raises a ValueError that names the first row whose mode, people or weights do not fit."""
    for row, mix in enumerate(table.to_pylist()):
        if not all(_is_part(part) for part in mix["parts"]):
            raise ValueError(
                f"{where}, row {row}, column 'parts': value is {mix['parts']!r}, allowed: "
                "identity_id: weight pairs, each weight a finite number"
            )
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


def _is_part(part: Mapping[str, Any] | None) -> bool:
    if part is None or not isinstance(part["identity_id"], str):
        return False
    return part["weight"] is not None and math.isfinite(part["weight"])


def check_groups(table: pa.Table, where: str, people: Collection[str] | None = None) -> None:
    """Raises a ValueError that names the first group that a run would reject.

    Args:
        table: of groups.
        where: what the message calls it.
        people: of the run; None: not known.
    """
    if people is not None:
        table = as_spelled(table, people)
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
        people: of the run, in the spelling of the row (`as_spelled`); None: not known.
    """
    name, members = f"group {group['group_id']!r}", group["people"]
    if not 1 <= len(members) <= MOST_PEOPLE:
        return "people", f"{name} has {len(members)} people, allowed: 1 to {MOST_PEOPLE}"
    names = [one_spelling(one) for one in members]
    for one in names:
        if names.count(one) > 1:
            return "people", f"{name} has the person {one!r} twice, allowed: each person once"
    for one in members:
        if people is not None and one not in people:
            told = f"{name} has the person {one!r}, who is no identity of this run"
            return "unknown_person", told
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
