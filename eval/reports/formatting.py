"""How numbers of a report are written: values with their unit, intervals, ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eval.metric_info import MetricInfo
from eval.reports.tables import Row

__all__ = ["bounds", "cell", "interval", "label", "record", "rounded", "value"]


def value(number: float | None, unit: str, *, signed: bool = False) -> str:
    """Three digits, per cent and degrees with one; "–" where there is none."""
    if number is None or math.isnan(number):
        return "–"
    sign = "+" if signed else ""
    if unit == "share":
        text = f"{rounded(100 * number, 1, sign)} %"
    else:
        text = f"{rounded(number, 1, sign)}°" if unit == "degrees" else rounded(number, 3, sign)
    return text.replace("-", "−")


def rounded(number: float, digits: int, sign: str = "") -> str:
    """Of so many digits; what is rounded to 0 has no sign.

    Args:
        number: to write.
        digits: after the point.
        sign: "+": of positive numbers too.
    """
    text = f"{number:{sign}.{digits}f}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def interval(one: Any, unit: str) -> str:
    """[low, high] of a Summary or Difference; empty where there is none."""
    if math.isnan(one.low):
        return ""
    return f"[{value(one.low, unit)}, {value(one.high, unit)}]"


def cell(one: Any, unit: str) -> str:
    """One line of Markdown for a Summary."""
    parts = [value(one.mean, unit), interval(one, unit), f"{one.nan} NaN" if one.nan else ""]
    return " ".join(part for part in parts if part)


def record(one: Mapping[str, Any] | float, unit: str) -> str:
    """Mean and interval of a summary that was read from JSON; a number is one of an earlier
    version, which had no interval."""
    if isinstance(one, int | float):
        return value(one, unit)
    text = value(one["mean"], unit)
    if one["low"] is None:
        return text
    return f"{text} [{value(one['low'], unit)}, {value(one['high'], unit)}]"


def bounds(info: MetricInfo) -> str:
    """ "−1 to 1"."""
    low, high = ("∞" if math.isinf(b) else f"{b:g}".replace("-", "−") for b in info.bounds)
    return f"{'−' if math.isinf(info.bounds[0]) else ''}{low} to {high}"


def label(row: Row) -> str:
    """What a row is of: method, style, person."""
    return " · ".join(name for name in (row.method, row.style, row.identity_id) if name)
