"""uvicorn with what it lacks against slow and many callers: time-outs of headers, and whose turn it
is when connections run out.

Of the servers that speak ASGI, granian (hyper) has a time-out of headers and hypercorn one of
reading; none bounds the connections of one address or makes room when silent ones hold all. So
uvicorn's protocol is extended at its callbacks, and nothing of it is replaced but its answer to
what is no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipelines.serving.callers import is_loopback, network
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError
from pipelines.serving.keys import RateLimit

__all__ = ["Connections", "Server", "listen"]

# Beyond max_connections, so that probes find room while all are busy; and for other files.
_SPARE_CONNECTIONS = 32
_OTHER_FILES = 200
_MOST_HEADER_BYTES = 64 << 10
# Requests of one connection that came before the answer to the first: a few hundred thousand would
# fit into what is read at once of a hundred connections.
_MOST_PIPELINED = 32
_BODY_HEADERS = (b"content-length", b"transfer-encoding")
# An answer that came before the end of the body has that long to be read.
_LINGER_SECONDS = 1.0


class Connections:
    """The open connections of a server.

    Where there are too many, the one goes that has kept us waiting for headers the longest, of the
    network with the most that wait; one that has been served before goes last.

    Args:
        config: max_connections, max_connections_per_address, connections_per_minute,
            header_timeout_seconds, send_timeout_seconds.
        changed: told their number.
    """

    def __init__(self, config: ServiceConfig, changed: Callable[[int], None]) -> None:
        self.header_seconds = config.header_timeout_seconds
        self.send_seconds = config.send_timeout_seconds
        self._most = config.max_connections + _SPARE_CONNECTIONS
        self._most_per_address = config.max_connections_per_address
        self._fresh = RateLimit(config.connections_per_minute, burst=self._most_per_address)
        self._changed = changed
        self._open: dict[Any, str] = {}
        self._counts: Counter[str] = Counter()
        # Since when, and whether it has been served: in the order in which they began to wait.
        self.waiting: dict[Any, tuple[float, bool]] = {}
        # Bytes that each that is being closed has still to send, and since when so many.
        self._closing: dict[Any, tuple[int, float]] = {}

    def add(self, connection: Any, address: str) -> bool:
        """Whether there is a place for it; another one may have lost its own."""
        whose = network(address)
        # A proxy on this machine speaks for everybody.
        if not is_loopback(address) and not self._may_open(whose):
            return False
        if len(self._open) >= self._most and not self._make_room():
            return False
        self._open[connection] = whose
        self._counts[whose] += 1
        self._changed(len(self._open))
        return True

    def _may_open(self, whose: str) -> bool:
        if self._counts[whose] >= self._most_per_address:
            return False
        try:
            # Who opens one for each request, and never waits for an answer, holds few at a time.
            self._fresh.take(whose)
        except ServiceError:
            return False
        return True

    def remove(self, connection: Any) -> None:
        """It is closed."""
        self.waiting.pop(connection, None)
        whose = self._open.pop(connection, None)
        if whose is None:
            return
        self._counts[whose] -= 1
        if not self._counts[whose]:
            del self._counts[whose]
        self._changed(len(self._open))

    def sweep(self) -> None:
        """Ends those that are being closed and have sent nothing for `send_seconds`.

        What is left of their answers nobody reads, and a transport that is closed waits for that
        for ever.
        """
        now, before = time.monotonic(), self._closing
        self._closing = {}
        for one in [one for one in self._open if one.transport.is_closing()]:
            left = one.transport.get_write_buffer_size()
            had, since = before.get(one, (left, now))
            self._closing[one] = (left, since if had == left else now)
            if now - self._closing[one][1] >= self.send_seconds:
                one.transport.abort()

    def _make_room(self) -> bool:
        if not self.waiting:
            return False
        crowd = Counter(self._open[one] for one in self.waiting)
        first = min(
            self.waiting,
            key=lambda one: (
                self.waiting[one][1],
                -crowd[self._open[one]],
                self.waiting[one][0],
            ),
        )
        self.remove(first)
        first.transport.abort()
        return True


class _Protocol(HttpToolsProtocol):
    """One connection. It waits from its beginning, and from each answer on, for whole headers."""

    places: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._timer: asyncio.TimerHandle | None = None
        # The request that is being answered; `cycle` is the one that came last.
        self._running: Any = None
        super().connection_made(transport)
        if not self.places.add(self, self.client[0] if self.client else "unknown"):
            transport.abort()
            return
        self._wait(served=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        self.places.remove(self)
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self in self.places.waiting and not self._in_body:
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # Whoever gives an answer up cannot close it in order: what lies before it is not read.
        cast(dict[str, Any], self.scope)["abort"] = self.transport.abort

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MOST_PIPELINED:
            # Out of the parser's callback: it stops in the middle of what it was given.
            raise ValueError(f"more than {_MOST_PIPELINED} requests wait")
        self._in_body = True
        self._go_on()
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle
        if any(name in _BODY_HEADERS for name, _ in self.headers):
            # Nothing is read of it before somebody asks for it, and for a stranger's nobody does.
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        pending = self.cycle is not None and not self.cycle.response_complete
        self._leave()
        if pending and (self.pipeline or self.cycle.response_started or not self.cycle.more_body):
            # It would be taken for the answer to an earlier request.
            self.transport.abort()
            return
        refusal = ServiceError(400, "invalid_request", "The request is no valid HTTP/1.1.")
        body = json.dumps(refusal.body()).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _leave(self) -> None:
        """Nobody waits for the answer any more; what has not been begun never is."""
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def on_response_complete(self) -> None:
        self._running = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return
        if self._in_body:
            self._linger()
        else:
            self._wait(served=True)

    def _linger(self) -> None:
        """The answer came before the body had: the rest of that is not read."""
        self.cycle.body.clear()
        self.flow.pause_reading()
        self.transport.write_eof()
        self._wait(served=False, seconds=_LINGER_SECONDS)

    def _wait(self, served: bool, seconds: float | None = None) -> None:
        self._go_on()
        self._header_bytes = 0
        self._in_body = False
        self.places.waiting[self] = (time.monotonic(), served)
        patience = self.places.header_seconds if seconds is None else seconds
        left = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(patience, self._end, patience, left, time.monotonic())

    def _end(self, patience: float, left: int, since: float) -> None:
        """Ends the connection, unless the last answer is still on its way."""
        now, remaining = time.monotonic(), self.transport.get_write_buffer_size()
        if remaining != left:
            since = now
        if since == now or (remaining and now - since < self.places.send_seconds):
            self._timer = self.loop.call_later(patience, self._end, patience, remaining, since)
        else:
            self.transport.abort()

    def _go_on(self) -> None:
        self.places.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """Serves until it is told to stop, or a part of it is lost.

    Args:
        app: the application.
        config: limits.
        listening: of `listen`.
        ready: called once requests are answered.
        changed: told the number of open connections.
    """

    def __init__(
        self,
        app: Any,
        config: ServiceConfig,
        listening: socket.socket,
        ready: Callable[[], None] = lambda: None,
        changed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._places = Connections(config, changed)
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Protocol", (_Protocol,), {"places": self._places}),
                ws="none",
                # The access log would hold no prompt, but ids of people, which work like passwords.
                access_log=False,
                # What a caller can make it say fills the disk.
                log_level="critical",
                timeout_graceful_shutdown=int(config.request_timeout_seconds) + 5,
            )
        )
        self._listening, self._ready = listening, ready
        self.lost: str | None = None
        """What was lost, where that ended the server."""

    def lose(self, what: str) -> None:
        """Stops taking requests, answers those that came, and ends; from any thread."""
        self.lost = what
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            self._sweep()
            self._ready()

    def _sweep(self) -> None:
        # Not in `on_tick`: while the server ends it must go on.
        self._places.sweep()
        asyncio.get_running_loop().call_later(self._places.header_seconds, self._sweep)

    def serve_until_told(self) -> None:
        """Runs; returns as well where the application does not start."""
        with contextlib.suppress(SystemExit):
            self.run(sockets=[self._listening])


def listen(host: str, port: int, config: ServiceConfig) -> socket.socket:
    """A socket that holds the port; who connects waits until the server is ready.

    Raises:
        ValueError: the port is taken, the host is none of this machine, or too few files may be
            open for `max_connections`.
    """
    _allow_files(config.max_connections + _SPARE_CONNECTIONS + _OTHER_FILES)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ValueError(f"host is {host}, which is not known: {error.strerror}") from None
    found = socket.socket(family, socket.SOCK_STREAM)
    # A port whose last owner has just gone is free.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Its connections have it too: one whose other end is gone without a word is closed by the
        # system, so that what it waits for is given up.
        milliseconds = max(1, int(1000 * config.send_timeout_seconds))
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    try:
        found.bind(address)
        # At once: a port that is bound alone can be bound by a second server as well.
        found.listen(2048)
    except OSError as error:
        found.close()
        message = f"port is {port} on {host}, which cannot be used: {error.strerror}"
        raise ValueError(message) from None
    return found


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(
            f"max_connections needs {wanted} open files, allowed here: {hard} (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
