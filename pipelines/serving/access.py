"""Who may ask: dependencies of the routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from pipelines.serving.service import Service
from pipelines.serving.worker import Deadline

__all__ = ["Owner", "Served", "Until"]


def _service(request: Request) -> Service:
    return request.app.state.service


def _owner(request: Request, service: Annotated[Service, Depends(_service)]) -> str:
    # A plain function: scrypt would hold the event loop.
    owner = service.keys.owner(request.headers.get("authorization"))
    service.rates.take(owner)
    return owner


def _deadline(request: Request) -> Deadline:
    return request.scope["deadline"]


Served = Annotated[Service, Depends(_service)]
"""The service of this application."""

Owner = Annotated[str, Depends(_owner)]
"""The name of the caller's key, which is let in and has not used up its rate."""

Until = Annotated[Deadline, Depends(_deadline)]
"""The time that the request has; it began with its first byte."""
