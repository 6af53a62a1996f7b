"""What routes ask for: the service, the caller's name, the time left."""

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


def _owner(request: Request) -> str:
    return request.scope["owner"]


Served = Annotated[Service, Depends(_service)]
"""The service of this application."""

Until = Annotated[Deadline, Depends(_deadline)]
"""The time that the request has; it began with its first byte."""

Owner = Annotated[str, Depends(_owner)]
"""The name of the caller's key, which is let in and has not used up its rate."""
