"""An output folder belongs to the settings that it was begun with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipelines.storage import Store

__all__ = ["check_same"]


def check_same(store: Store, name: str, what: str, settings: Mapping[str, Any]) -> None:
    """Refuses an output folder whose file of settings says other values; none says nothing.

    Args:
        store: the output folder.
        name: of the JSON file in it.
        what: the folder holds then, for the message: "an export with".
        settings: JSON values by key.

    Raises:
        ValueError: the first key that differs, with both values.
    """
    if not store.exists(name):
        return
    found = json.loads(store.read_bytes(name))
    for key, value in settings.items():
        if found.get(key) != value:
            raise ValueError(
                f"output {store.url} holds {what} {key} {found.get(key)!r}, this run has "
                f"{value!r}; allowed: the same, or another output"
            )
