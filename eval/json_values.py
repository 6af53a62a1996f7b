"""Values as JSON can hold them: it has neither NaN nor infinities, and its keys are text."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["json_value"]


def json_value(value: Any) -> Any:
    """`value` with NaN and infinities as null and keys as text, in dictionaries and lists too."""
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
