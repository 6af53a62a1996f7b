"""Pictures of groups in a run, apart from those of one person: they are in none of their means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from eval.run_folder import RunFiles
from eval.stats import summarise

__all__ = ["GroupData", "group_tables", "groups_of", "read_groups"]


@dataclass(frozen=True, slots=True)
class GroupData:
    """What a run has of groups.

    Attributes:
        people: group -> its people, in the order of the regions.
        samples: as those of `RunData`, (M,).
        seen: sample_id -> its rows of `group_scores`, one a person.
    """

    people: Mapping[str, list[str]] = field(default_factory=dict)
    samples: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    seen: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples.get("sample_id", ()))


def groups_of(folder: RunFiles) -> dict[str, list[str]]:
    """Group -> its people, of a run's requests."""
    requests = folder.dataset("requests")
    if requests is None or "group_people" not in requests.schema.names:
        return {}
    rows = requests.to_table(
        columns=["identity_id", "group_people"], filter=pc.field("group_people").is_valid()
    )
    return {row["identity_id"]: row["group_people"] for row in rows.to_pylist()}


def read_groups(
    folder: RunFiles, people: Mapping[str, list[str]], samples: Mapping[str, NDArray[Any]]
) -> GroupData:
    """The groups of a run with what was seen of each person.

    Args:
        folder: of the run.
        people: of `groups_of`.
        samples: of the groups' requests.
    """
    table = folder.dataset("group_scores")
    seen: dict[str, list[dict[str, Any]]] = {}
    for row in [] if table is None else table.to_table().to_pylist():
        seen.setdefault(row["sample_id"], []).append(row)
    for rows in seen.values():
        rows.sort(key=lambda row: row["number"])
    return GroupData(people, samples, seen)


def group_tables(groups: GroupData) -> list[dict[str, Any]]:
    """One entry a method: "method", "requests", "pictures", and summaries over groups.

    "faces_found": a face in each region. "no_face": of each place in the order of the regions, the
    share of pictures without a face there. "mixed_up": of the people with a face in their region,
    those whose face there is another one's of the group. "identity", "group_margin",
    "identity_in_region": see `eval.groups.PersonSeen`.
    """
    found = []
    methods = groups.samples["method"].tolist() if len(groups) else []
    for method in dict.fromkeys(methods):
        mine = groups.samples["method"] == method
        ids = groups.samples["sample_id"][mine].tolist()
        pictures = [groups.seen[one] for one in ids if one in groups.seen]
        rows = [row for picture in pictures for row in picture]
        known = [picture for picture in pictures if picture[0]["region"] is not None]
        placed = [[row["face_in_region"] is not None for row in picture] for picture in known]
        most = max((len(one) for one in placed), default=0)
        found.append(
            {
                "method": method,
                "requests": len(ids),
                "pictures": int(groups.samples["has_image"][mine].sum()),
                "faces_found": asdict(
                    summarise([float(all(one)) for one in placed], _names(known), rate=True)
                ),
                "no_face": [
                    float(np.mean([not one[place] for one in placed if len(one) > place]))
                    for place in range(most)
                ],
                "mixed_up": _summary(rows, "mixed_up", rate=True),
                **{
                    name: _summary(rows, name)
                    for name in ("identity", "group_margin", "identity_in_region")
                },
            }
        )
    return found


def _names(pictures: Sequence[Sequence[Mapping[str, Any]]]) -> NDArray[np.str_]:
    return np.array([picture[0]["identity_id"] for picture in pictures], dtype=str)


def _summary(rows: Sequence[Mapping[str, Any]], name: str, *, rate: bool = False) -> dict[str, Any]:
    """Over groups; pictures of one group, and the people in one, resemble each other."""
    values = [math.nan if row[name] is None else float(row[name]) for row in rows]
    groups = np.array([row["identity_id"] for row in rows], dtype=str)
    return asdict(summarise(values, groups, rate=rate))
