"""Who may ask: dependencies of the routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from pipelines.serving.service import Service
from pipelines.serving.worker import Deadline

__all__ = ["Owner", "Served", "Until"]


def _service(request: Request) -> Service:
    return request.app.state.service


def _deadline(request: Request) -> Deadline:
    return request.scope["deadline"]


Served = Annotated[Service, Depends(_service)]
"""The service of this application."""

Until = Annotated[Deadline, Depends(_deadline)]
"""The time that the request has; it began with its first byte."""


def _key(request: Request, service: Served) -> str:
    # A plain function: scrypt would hold the event loop.
    return service.keys.owner(request.headers.get("authorization"))


async def _owner(service: Served, deadline: Until, key: Annotated[str, Depends(_key)]) -> str:
    await service.state.take(deadline, key)
    return key


Owner = Annotated[str, Depends(_owner)]
"""The name of the caller's key, which is let in and has not used up its rate."""
