"""A client of the HTTP service, in blocking and asyncio form. Light: no torch, no ray, and
names are loaded when they are first used: the service takes one without httpx.

from infinite_id.client import Client

with Client("http://127.0.0.1:8000") as client:
    person = client.add_identity("face.png")
    client.generate("a {subject} on the beach", identity=person).save("pictures")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infinite_id.client.asynchronous import AsyncClient
    from infinite_id.client.calls import GenerateOptions, Photo
    from infinite_id.client.errors import ServiceError
    from infinite_id.client.results import (
        Event,
        Face,
        Generation,
        Identity,
        Method,
        Picture,
        Preview,
        Queued,
        Sample,
        ScoreInfo,
        Settings,
        Step,
        Style,
    )
    from infinite_id.client.retry import Retry
    from infinite_id.client.synchronous import Client

__all__ = [
    "Client",
    "AsyncClient",
    "Retry",
    "ServiceError",
    "Identity",
    "Face",
    "Generation",
    "Picture",
    "Event",
    "Queued",
    "Step",
    "Preview",
    "Method",
    "Style",
    "Sample",
    "Settings",
    "ScoreInfo",
    "GenerateOptions",
    "Photo",
]

_HOMES = {
    "Client": "synchronous",
    "AsyncClient": "asynchronous",
    "Retry": "retry",
    "ServiceError": "errors",
    "GenerateOptions": "calls",
    "Photo": "calls",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "results")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
