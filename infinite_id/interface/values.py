"""Arguments as numbers and texts, or a ValueError that names them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["as_number", "check_beside", "text", "whole"]


def whole(name: str, value: Any) -> int:
    """`value` as an int; ValueError unless it is a whole number of any kind."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}, allowed: a whole number") from None


def as_number(name: str, value: Any) -> float | None:
    """`value` as a float; None stays None.

    Raises:
        ValueError: it is no number; says of which argument.
    """
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}, allowed: a number") from None


def check_beside(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], pictures: Sequence[str]
) -> None:
    """Raises a ValueError for the first row with a value of `names` and none of `pictures`. A value
    that all rows share, as one that was given for all of them, is of those that have a picture."""
    bare = [row for row in rows if all(row[picture] is None for picture in pictures)]
    for name in names:
        for row in bare:
            value = row[name]
            shared = len(bare) < len(rows) and all(one[name] == value for one in rows)
            if value is not None and not shared:
                raise ValueError(
                    f"{name} is {value!r} without {pictures[0]}, allowed: with "
                    + " or ".join(pictures)
                )


def text(name: str, value: Any) -> str:
    """`value`; ValueError unless it is text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, allowed: text, or a list of texts")
    return value
