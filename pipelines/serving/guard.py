"""What one request may cost before anybody reads it: bytes, time, and a reader that stalls."""

from __future__ import annotations

import asyncio
import logging
import traceback

from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.answers import error_answer
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError, overloaded
from pipelines.serving.worker import Deadline

__all__ = [
    "Guard",
    "unexpected",
    "Measures",
]

_LOG = logging.getLogger(__name__)
_MOST_DIGITS = 18


class Guard:
    """ASGI middleware around the routes.

    - A body is refused with 413 once it has more than `max_body_bytes`, announced or not; with 503
      while the bodies of all requests have more than `max_inflight_bytes`; with 408 where it is
      not there in time. Nothing is parsed or decoded before.
    - An answer that nobody reads for `send_timeout_seconds` is given up.
    - An unexpected error becomes a 500 with our body; the log says where it came from and not its
      message, which may quote a prompt.

    The request's `Deadline` is in `scope["deadline"]`.
    """

    def __init__(self, app: ASGIApp, config: ServiceConfig, measures: Measures) -> None:
        self._app, self.config, self.measures = app, config, measures
        self.held = 0
        """Bytes of bodies whose requests are not answered yet."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(self, scope, receive, send).run(self._app)


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._deadline = Deadline(guard.config.request_timeout_seconds)
        self._held, self._seen = 0, 0
        self._whole, self._started = False, False
        self._refusal: ServiceError | None = None

    async def run(self, app: ASGIApp) -> None:
        """Runs the application; what it says after a refusal is not sent."""
        self._scope["deadline"] = self._deadline
        try:
            self._hold(self._announced())
            await app(self._scope, self.receive, self.send)
        except Exception as error:
            if self._refusal is None:
                self._refusal = unexpected(error)
        finally:
            self._guard.held -= self._held
        if self._refusal is None:
            return
        self._guard.measures.errors.labels(self._refusal.code).inc()
        if not self._started:
            answer = error_answer(self._refusal, self._scope["path"])
            await answer(self._scope, self._receive, self._send)

    def _announced(self) -> int:
        announced = dict(self._scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or len(announced) > _MOST_DIGITS:
            message = f"Content-Length is not a number of at most {_MOST_DIGITS} digits."
            self._refuse(ServiceError(400, "invalid_request", message))
        return int(announced)

    def _refuse(self, error: ServiceError) -> None:
        self._refusal = error
        raise error

    def _hold(self, count: int) -> None:
        config = self._guard.config
        if count > config.max_body_bytes:
            message = f"The request has more than {config.max_body_bytes} bytes."
            self._refuse(ServiceError(413, "too_large", message))
        more = max(0, count - self._held)
        if more and self._guard.held + more > config.max_inflight_bytes:
            self._refuse(overloaded("bytes of requests"))
        self._held += more
        self._guard.held += more

    async def receive(self) -> Message:
        """The next part of the body, counted; after the last one, what follows."""
        if self._whole:
            return await self._receive()
        if self._refusal is not None:
            raise self._refusal
        try:
            message = await asyncio.wait_for(self._receive(), self._deadline.left)
        except TimeoutError:
            self._refuse(ServiceError(408, "slow_body", "The request did not arrive in time."))
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            self._hold(self._seen)
        return message

    async def send(self, message: Message) -> None:
        """A part of the answer, unless the request has been refused."""
        if self._refusal is not None:
            return
        self._started = True
        try:
            await asyncio.wait_for(self._send(message), self._guard.config.send_timeout_seconds)
        except TimeoutError:
            self._refuse(ServiceError(408, "stalled_reader", "The answer was not read in time."))


def unexpected(error: Exception) -> ServiceError:
    """The 500 of an error that nobody foresaw, which is logged without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    _LOG.error("%s at %s", type(error).__name__, where)
    return ServiceError(500, "internal", "The service has failed.")


class Measures:
    """Of one application; a registry of its own, so that two can live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.pictures = Counter("pictures", "Pictures made", registry=self._registry)
        self.errors = Counter("errors", "Answers by code", ["code"], registry=self._registry)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
