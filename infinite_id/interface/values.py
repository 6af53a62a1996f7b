"""Arguments as numbers and texts, or a ValueError that names them."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["as_number", "text", "whole"]


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


def text(name: str, value: Any) -> str:
    """`value`; ValueError unless it is text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, allowed: text, or a list of texts")
    return value
