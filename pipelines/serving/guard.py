"""What one request may cost before anybody reads it: caller, bytes, time, a reader that stalls."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.answers import error_answer
from pipelines.serving.callers import TOO_MANY_FAILURES, Callers
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError, let_go, overloaded
from pipelines.serving.measures import Measures
from pipelines.serving.worker import Deadline

__all__ = ["Guard", "unexpected"]

_LOG = logging.getLogger(__name__)
_MOST_DIGITS = 18
# Each connection of somebody who tries keys then costs one answer in that time.
_SLOW_SECONDS = 1.0
# A server takes what it is given at once, and waits for the reader before the next part.
_PIECE = 64 << 10
# Bytes of an answer per second, of a reader that is waited for.
_SLOWEST = 32 << 10
_ALWAYS = ("/healthz", "/readyz", "/metrics")
# Asked while somebody types.
_FREE = ("/v1/tokens",)
Take = Callable[[Deadline, str], Awaitable[None]]


class Guard:
    """ASGI middleware around the routes.

    - Who calls, and whether the rate of the key allows it, is settled from the headers alone. An
      address that tries keys waits for each answer, in a tenth of the places that there are; so
      it costs little, and takes no place of others.
    - A body is refused with 413 once it has more than `max_body_bytes`, announced or not; with 503
      while the bodies of all requests have more than `max_inflight_bytes`, counted as they come;
      with 408 where nothing of it comes for `upload_idle_seconds`, or not all in time. Nothing is
      parsed or decoded before.
    - More than `max_connections` requests at once are 503; probes and metrics are always answered.
    - An answer of which nothing is read for `send_timeout_seconds` is given up; so is one that is
      read at less than 32 KiB per second, beyond that time. It is sent in pieces, so that the
      server holds one piece of it and not all.
    - An unexpected error becomes a 500 with our body; the log says where it came from and not its
      message, which may quote a prompt.

    The request's `Deadline` is in `scope["deadline"]`, the caller's name in `scope["owner"]`. A
    server may put into `scope["abort"]` how a connection is ended at once.

    Args:
        app: the routes.
        config: limits.
        measures: of this process.
        callers: who may ask.
        take: raises a ServiceError where the rate of an owner is used up.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServiceConfig,
        measures: Measures,
        callers: Callers,
        take: Take,
    ) -> None:
        self._app, self.config, self.measures = app, config, measures
        self.callers, self.take = callers, take
        self.held = 0
        """Bytes of bodies whose requests are not answered yet."""
        self.active = 0
        """Requests that are not answered yet."""
        self._slowed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.active += 1
        self.measures.record("in_flight", self.active)
        exchange = _Exchange(self, scope, receive, send)
        begin = time.monotonic()
        try:
            await exchange.run(self._app)
        finally:
            self.active -= 1
            self.measures.record("in_flight", self.active)
            route = getattr(scope.get("route"), "path", "other")
            told: dict[str, str] = {
                "route": route,
                "method": _method(scope),
                "status": str(exchange.status),
            }
            self.measures.record("requests_total", 1, **told)
            self.measures.record("request_seconds", time.monotonic() - begin, route=route)

    async def slow_down(self) -> None:
        """Lets somebody wait who tries keys; not where too many do."""
        if self._slowed >= self.config.max_connections // 10:
            return
        self._slowed += 1
        self.active -= 1
        try:
            await asyncio.sleep(_SLOW_SECONDS)
        finally:
            self._slowed -= 1
            self.active += 1


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._deadline = Deadline(guard.config.request_timeout_seconds)
        self._held, self._seen = 0, 0
        self._sent, self._sending = 0, 0.0
        self._whole, self._started = False, False
        self._refusal: ServiceError | None = None
        self.status = 499
        """Of the answer; 499 where the client left before there was one."""

    async def run(self, app: ASGIApp) -> None:
        """Runs the application; what it says after a refusal is not sent."""
        self._scope["deadline"] = self._deadline
        try:
            await self._admit()
            await app(self._scope, self.receive, self.send)
        except ServiceError as error:
            if self._refusal is None:
                self._refusal = error
        except Exception as error:
            if self._refusal is None:
                self._refusal = unexpected(error)
        finally:
            self._guard.held -= self._held
            self._guard.measures.record("body_bytes", self._guard.held)
        if self._refusal is None:
            return
        self._guard.measures.record("rejected_total", code=self._refusal.code)
        if not self._started:
            answer = error_answer(self._refusal, self._scope["path"])
            await answer(self._scope, self._receive, self._told)
        let_go(self._refusal)

    async def _admit(self) -> None:
        guard = self._guard
        hosts = sum(name == b"host" for name, _ in self._scope["headers"])
        asks = self._scope["path"] not in _ALWAYS and self._scope.get("http_version") == "1.1"
        if hosts > 1 or (not hosts and asks):
            # RFC 9112: what lies between might read another one.
            message = f"The request has {hosts} Host headers, allowed: one."
            raise ServiceError(400, "invalid_request", message)
        if guard.active > guard.config.max_connections and self._scope["path"] not in _ALWAYS:
            raise overloaded("requests")
        try:
            owner = self._scope["owner"] = guard.callers.owner(self._scope)
        except ServiceError as error:
            if error.code == TOO_MANY_FAILURES:
                await guard.slow_down()
            raise
        if owner is not None and self._scope["path"] not in _FREE:
            await guard.take(self._deadline, owner)
        self._check_size(self._announced())

    def _announced(self) -> int:
        announced = dict(self._scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or len(announced) > _MOST_DIGITS:
            message = f"Content-Length is not a number of at most {_MOST_DIGITS} digits."
            raise ServiceError(400, "invalid_request", message)
        return int(announced)

    def _refuse(self, error: ServiceError) -> None:
        self._refusal = error
        raise error

    def _check_size(self, count: int) -> None:
        if count > self._guard.config.max_body_bytes:
            message = f"The request has more than {self._guard.config.max_body_bytes} bytes."
            self._refuse(ServiceError(413, "too_large", message))

    def _hold(self, more: int) -> None:
        guard = self._guard
        self._seen += more
        self._check_size(self._seen)
        if guard.held + more > guard.config.max_inflight_bytes:
            self._refuse(overloaded("bytes of requests"))
        self._held += more
        guard.held += more
        guard.measures.record("body_bytes", guard.held)

    async def receive(self) -> Message:
        """The next part of the body, counted; after the last one, what follows."""
        if self._whole:
            return await self._receive()
        if self._refusal is not None:
            raise self._refusal
        patience = min(self._deadline.left, self._guard.config.upload_idle_seconds)
        try:
            message = await asyncio.wait_for(self._receive(), patience)
        except TimeoutError:
            self._refuse(ServiceError(408, "slow_body", "The request did not arrive in time."))
        if message["type"] == "http.request":
            self._whole = not message.get("more_body", False)
            self._hold(len(message.get("body", b"")))
        return message

    async def send(self, message: Message) -> None:
        """A part of the answer, unless the request has been refused."""
        if self._refusal is not None:
            return
        self._started = True
        for piece in _pieces(message):
            await self._send_piece(piece)

    async def _send_piece(self, piece: Message) -> None:
        patience = self._guard.config.send_timeout_seconds
        left = patience + self._sent / _SLOWEST - self._sending
        begin = time.monotonic()
        try:
            await asyncio.wait_for(self._told(piece), min(patience, left))
        except TimeoutError:
            abort: Callable[[], None] | None = self._scope.get("abort")
            if abort is not None:
                abort()
            self._refuse(ServiceError(408, "stalled_reader", "The answer was not read in time."))
        self._sending += time.monotonic() - begin
        self._sent += len(piece.get("body", b""))

    async def _told(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def _pieces(message: Message) -> Iterator[Message]:
    body = message.get("body", b"")
    if len(body) <= _PIECE:
        yield message
        return
    for begin in range(0, len(body), _PIECE):
        more = message.get("more_body", False) or begin + _PIECE < len(body)
        yield {**message, "body": body[begin : begin + _PIECE], "more_body": more}


def _method(scope: Scope) -> str:
    # A caller invents methods: each would be a row of its own for ever.
    known = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"


def unexpected(error: Exception) -> ServiceError:
    """The 500 of an error that nobody foresaw, which is logged without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    _LOG.error("%s at %s", type(error).__name__, where)
    return ServiceError(500, "internal", "The service has failed.")
