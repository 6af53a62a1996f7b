"""A check of finished pictures that the operator brings along.

`safety_check: module:function` in the service's settings names a function that takes a picture,
uint8 (H, W, 3) RGB, and returns True where it may be shown. It runs in the ingress, one picture at
a time. Requests cannot name one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["SafetyCheck", "load_safety_check"]

SafetyCheck = Callable[[NDArray[np.uint8]], bool]


def load_safety_check(path: str | None) -> SafetyCheck | None:
    """The function of "module:function"; None without a path.

    Raises:
        ValueError: there is no such module or function.
    """
    if path is None:
        return None
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"safety_check is {path!r}, its module does not load: {error}") from error
    if not callable(found):
        raise ValueError(f"safety_check is {path!r}, allowed: module:function that exists")
    return found
