"""What routes ask for: the service, the caller's name, the time left, the kind of body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.params import Form
from fastapi.routing import APIRoute
from starlette.responses import Response

from pipelines.serving.errors import ServiceError
from pipelines.serving.service import Service
from pipelines.serving.worker import Deadline

__all__ = ["Owner", "Route", "Served", "Until", "form_of"]

_JSON = ("application/json",)
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


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


def form_of(*once: str, several: tuple[str, ...] = ()) -> Any:
    """A dependency that refuses fields of a form with other names, and one of `once` given twice.

    FastAPI takes the last of two and passes over what it does not know.
    """

    async def check(request: Request) -> None:
        given = Counter(name for name, _ in (await request.form()).multi_items())
        for name, times in given.items():
            if name not in once and name not in several:
                known = ", ".join((*several, *once))
                message = f"{name[:100]!r} is no field, allowed: {known}."
                raise ServiceError(422, "invalid_request", message)
            if times > 1 and name in once:
                message = f"{name} is given {times} times, allowed: once."
                raise ServiceError(422, "invalid_request", message, param=name)

    return Depends(check)


class Route(APIRoute):
    """A route whose body is of the kind that it reads; another kind is 415 and not guessed at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        handle, field = super().get_route_handler(), self.body_field
        if field is None:
            return handle
        allowed = _FORMS if isinstance(field.field_info, Form) else _JSON

        async def handle_kind(request: Request) -> Response:
            stated = request.headers.get("content-type")
            kind = (stated or "").partition(";")[0].strip().lower()
            empty = stated is None and request.headers.get("content-length", "0") == "0"
            if kind not in allowed and not (empty and "transfer-encoding" not in request.headers):
                what = "missing" if stated is None else repr(kind[:100])
                message = f"Content-Type is {what}, allowed: {' or '.join(allowed)}."
                raise ServiceError(415, "wrong_content_type", message)
            coding = request.headers.get("content-encoding", "identity")
            if coding.strip().lower() != "identity":
                message = f"Content-Encoding is {coding[:100]!r}, allowed: none."
                raise ServiceError(415, "wrong_content_encoding", message)
            return await handle(request)

        return handle_kind
