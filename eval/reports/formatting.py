"""How numbers of a report are written: values with their unit, intervals, ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eval.metric_info import MetricInfo
from eval.reports.tables import Row

__all__ = ["bounds", "carries", "cell", "interval", "label", "record", "rounded", "value"]

_NO_WIDTH = 1e-6  # of float32 values that are equal


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


def carries(low: float | None, high: float | None) -> bool:
    """Whether an interval is to be shown. One without width is not: equal values do not say that
    another one would be equal, too."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return False
    return high - low > _NO_WIDTH


def interval(one: Any, unit: str) -> str:
    """[low, high] of a Summary or Difference; empty where there is none."""
    if not carries(one.low, one.high):
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
    if not carries(one["low"], one["high"]):
        return text
    return f"{text} [{value(one['low'], unit)}, {value(one['high'], unit)}]"


def bounds(info: MetricInfo) -> str:
    """ "−1 to 1"."""
    low, high = ("∞" if math.isinf(b) else f"{b:g}".replace("-", "−") for b in info.bounds)
    return f"{'−' if math.isinf(info.bounds[0]) else ''}{low} to {high}"


def label(row: Row) -> str:
    """What a row is of: method, style, person."""
    return " · ".join(name for name in (row.method, row.style, row.identity_id) if name)
