"""Networks of this process: what several methods share is loaded once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["loaded_once"]

T = TypeVar("T")

_lock = threading.RLock()
_networks: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()


def loaded_once(key: Hashable, load: Callable[[], T]) -> T:
    """What `load` gave for this key, as long as anything in the process still holds it.

    Args:
        key: whatever decides what is loaded: digest, device, type. It names content, since a file
            that changed is another one.
        load: gives a network, which callers must not change.
    """
    with _lock:
        found = _networks.get(key)
        if found is None:
            found = _networks[key] = load()
        return found
