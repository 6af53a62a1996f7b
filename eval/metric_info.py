"""What a metric says of itself. Light: no numpy, so that reports and command lines can read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MetricInfo"]


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """Name, direction, range and origin of one column of the scores table.

    Attributes:
        name: of the column; stable.
        title: for tables and figures.
        higher_is_better: None where neither direction is better as such.
        bounds: smallest and largest possible value; the latter may be infinite.
        unit: "cosine", "share" (0 or 1, its mean printed as per cent), "probability", "faces",
            "degrees", "points" (of 10), "score".
        network: the network that judges, in words; empty where none does.
        revision: of that network.
        note: what a reader has to know to read the number; may be empty.
        left_out: why the column holds no number, in a sentence; empty where it does.
    """

    name: str
    title: str
    higher_is_better: bool | None
    bounds: tuple[float, float]
    unit: str
    network: str
    revision: str
    note: str = ""
    left_out: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: an infinite bound becomes None."""
        return {
            "name": self.name,
            "title": self.title,
            "higher_is_better": self.higher_is_better,
            "bounds": [bound if math.isfinite(bound) else None for bound in self.bounds],
            "unit": self.unit,
            "network": self.network,
            "revision": self.revision,
            "note": self.note,
            "left_out": self.left_out,
        }

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> MetricInfo:
        """The inverse of `as_dict`; what is absent is filled in, so that any run can be read."""
        low, high = (*(values.get("bounds") or ()), None, None)[:2]
        return cls(
            name=name,
            title=str(values.get("title") or name),
            higher_is_better=values.get("higher_is_better"),
            bounds=(-math.inf if low is None else low, math.inf if high is None else high),
            unit=str(values.get("unit") or ""),
            network=str(values.get("network") or ""),
            revision=str(values.get("revision") or ""),
            note=str(values.get("note") or ""),
            left_out=str(values.get("left_out") or ""),
        )
