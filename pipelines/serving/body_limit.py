"""Refuses large bodies while they come in, before anything is parsed or decoded."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.errors import ServiceError

__all__ = ["BodyLimit"]


class BodyLimit:
    """ASGI middleware; what is announced and what is sent are both counted."""

    @dataclass(slots=True)
    class Limit:
        """Most bytes of a body; known once the service's settings are."""

        most: int = 32 << 20

    def __init__(self, app: ASGIApp, limit: Limit) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = ServiceError(
            413, "too_large", f"The request has more than {self._limit.most} bytes."
        )
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._limit.most:
            await JSONResponse(refusal.body(), 413)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit.most:
                raise refusal
            return message

        await self._app(scope, counted, send)
