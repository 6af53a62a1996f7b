"""Names of weights and settings: what makes a picture what it is, besides the request."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infinite_id.config import Preset
from infinite_id.packages import file_revision

__all__ = ["method_revision", "weights_revision"]


def weights_revision(family: Preset) -> tuple[str, bool]:
    """(name of the base's and adapter's weights, whether any of them is untrained)."""
    if family.base == "pocket":
        from infinite_id import pocket_weights

        return pocket_weights.revision(), not pocket_weights.is_trained()
    adapter = family.adapter_path
    if adapter is None:
        return f"{family.base}@{family.base_revision}+untrained", True
    return f"{family.base}@{family.base_revision}+{_file_digest(adapter)}", False


def _file_digest(path: str) -> str:
    return file_revision(path, 16) if Path(path).is_file() else path


def method_revision(method: str, family: Preset, weights: str) -> str:
    """Names a method's settings and weights; changes when a picture could change."""
    from infinite_id.methods import METHODS

    settings = asdict(family)
    # A baseline's own file counts by its content, another method's not at all.
    settings["weights"] = [
        _file_digest(path) for name, path in family.weights if method.startswith(name)
    ]
    what: list[Any] = [method, repr(METHODS[method]), sorted(settings.items()), weights]
    return f"{method}-{hashlib.blake2b(repr(what).encode(), digest_size=6).hexdigest()}"
