"""Slow and many connections against the server, over a bare application."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from benchmarks.hosts import hosts, not_permitted
from jobs.console import user_errors
from jobs.serve import serve
from pipelines.serving.callers import Callers
from pipelines.serving.config import ServiceConfig
from pipelines.serving.guard import Guard
from pipelines.serving.keys import KeyRing
from pipelines.serving.measures import Measures
from pipelines.serving.server import Connections, Server, listen

LIMITS = {"header_timeout_seconds": 1.0, "max_connections": 20, "max_body_bytes": 2048}


LARGE = 16 << 20
"""Bytes."""
arrived = threading.Event()
"""A request for /slow or /wait is being answered."""
gone = threading.Event()
"""Who asked for /wait has left."""


async def receive_until_gone(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answering(scope, receive, send) -> None:
    """Answers at once; /slow after a second, /wait when the caller has left, /large with more than
    the buffers of the system hold, /events until the caller has left."""
    if scope["type"] != "http":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        return
    if scope["path"] == "/slow":
        arrived.set()
        await asyncio.sleep(1)
    if scope["path"] == "/large":
        # A part that is sent at once: what waits then is the beginning of the next answer.
        part = any(name == b"x" for name, _ in scope["headers"])
        await Response(bytes(60_000 if part else LARGE))(scope, receive, send)
        return
    if scope["path"] == "/events":
        started = {"type": "http.response.start", "status": 200, "headers": []}
        await send(started)
        left = asyncio.ensure_future(receive_until_gone(receive))
        while not left.done():
            await send({"type": "http.response.body", "body": b"event", "more_body": True})
            await asyncio.sleep(0.1)
        gone.set()
        return
    if scope["path"] == "/wait":
        assert not (await receive()).get("more_body")
        arrived.set()
        assert (await receive())["type"] == "http.disconnect"
        gone.set()
    await JSONResponse({})(scope, receive, send)


@contextlib.contextmanager
def running(guarded: bool = False, host: str = "127.0.0.1", **limits):
    config = ServiceConfig(**{**LIMITS, **limits})
    listening = listen(host, 0, config)
    started = threading.Event()

    async def take(deadline, owner) -> None:
        pass

    keyless = Callers(KeyRing(()), (), 9)
    app = Guard(answering, config, Measures(), keyless, take) if guarded else answering
    server = Server(app, config, listening, started.set)
    thread = threading.Thread(target=server.serve_until_told, daemon=True)
    thread.start()
    assert started.wait(30)
    yield server, listening.getsockname()[1]
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def connect(port: int, data: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.sendall(data)
    return made


def closed_after(one: socket.socket) -> float:
    """Seconds until the server closes it."""
    begin = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while one.recv(4096):
            pass
    return time.monotonic() - begin


@pytest.mark.parametrize(
    "data",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"],
)
def test_a_connection_without_whole_headers_is_closed(data):
    with running() as (_, port):
        assert closed_after(connect(port, data)) < 8


def test_headers_without_end_are_cut_off():
    with running(header_timeout_seconds=60) as (_, port):
        one = connect(port, b"GET / HTTP/1.1\r\n")
        endless = (b"x-filler: " + b"y" * 1000 + b"\r\n") * 10_000
        with pytest.raises(ConnectionError):
            one.sendall(endless)


def test_silent_connections_make_room_for_a_request():
    with running(header_timeout_seconds=60) as (_, port):
        kept = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)
        assert kept.get("/").is_success
        silent = [connect(port, b"GET / HT") for _ in range(100)]
        for _ in range(20):
            assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10).is_success
        # One that has been served goes last.
        assert kept.get("/").is_success
        assert closed_after(silent[0]) < 5
        for one in silent:
            one.close()


def test_an_answer_before_the_end_of_a_body_is_read_and_the_body_is_not():
    with running(header_timeout_seconds=60) as (_, port):
        answer = httpx.post(f"http://127.0.0.1:{port}/", content=b"x" * 30_000_000, timeout=10)
        assert answer.is_success
        one = connect(port, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 900000000\r\n\r\n")
        one.settimeout(10)
        begin, sent = time.monotonic(), 0
        with contextlib.suppress(OSError):
            while sent < 900_000_000:
                sent += one.send(b"x" * 1_000_000)
        assert time.monotonic() - begin < 8
        # What the kernel's buffers hold.
        assert sent < 100_000_000


READ = b"GET /large HTTP/1.1\r\nhost: localhost\r\nconnection: %s\r\n\r\n"


def reading(port: int, connection: bytes, times: int = 1) -> socket.socket:
    """A connection of little room that has asked for something large, or for parts of it."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    one.settimeout(20)
    one.connect(("127.0.0.1", port))
    one.sendall(READ % connection * times)
    return one


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
def test_who_reads_slowly_gets_the_whole_answer(connection):
    # Three times as slowly as a connection without a request may stay.
    with running(guarded=True, header_timeout_seconds=0.4) as (_, port):
        one, got = reading(port, connection), 0
        while more := one.recv(1 << 20):
            got += len(more)
            if got >= LARGE:
                break
            time.sleep(1.2 * len(more) / LARGE)
        assert got >= LARGE
        one.close()


class Sending:
    """What of a transport says how much of an answer is left."""

    def __init__(self) -> None:
        self.left, self.aborted = 100, False

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.aborted = True


def test_a_closed_connection_stays_while_its_answer_moves():
    places = Connections(ServiceConfig(send_timeout_seconds=0.1), lambda _: None)
    transport = Sending()
    connection = type("Connection", (), {"transport": transport})()
    places.add(connection, "127.0.0.1")
    for left in (100, 60, 20):
        transport.left = left
        places.sweep()
        time.sleep(0.12)
    assert not transport.aborted
    places.sweep()
    assert transport.aborted


@pytest.mark.parametrize(
    ("connection", "times"), [(b"keep-alive", 1), (b"close", 1), (b"keep-alive\r\nx: piece", 30)]
)
def test_who_reads_nothing_keeps_no_connection(connection, times):
    limits = {"header_timeout_seconds": 0.3, "send_timeout_seconds": 0.3}
    with running(guarded=True, **limits) as (server, port):
        one = reading(port, connection, times)
        until = time.monotonic() + 10
        while not server.server_state.connections:
            assert time.monotonic() < until
        while server.server_state.connections:
            assert time.monotonic() < until
            time.sleep(0.05)
        one.close()


@pytest.mark.skipif(not_permitted() is not None, reason=str(not_permitted()))
def test_who_is_gone_without_a_word_is_noticed(tmp_path: Path):
    """A cable is taken out: no FIN, no RST."""
    gone.clear()
    log = tmp_path / "said.log"
    with hosts(["one"]) as (one,):
        there = one.address.rpartition(".")[0] + ".254"
        code = f"""import socket, time
made = socket.create_connection(({there!r}, PORT))
made.sendall(b"GET /events HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
print(len(made.recv(10)), flush=True)
time.sleep(60)"""
        with running(host=there, send_timeout_seconds=1) as (_, port):
            one.start([sys.executable, "-c", code.replace("PORT", str(port))], log)
            until = time.monotonic() + 20
            while log.read_text() != "10\n":
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
            one.cut()
            assert gone.wait(15)


def answers_of(one: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(OSError):
        while more := one.recv(65536):
            got += more
    return got


def test_a_few_requests_at_once_are_answered_in_their_order_and_thousands_are_not_kept():
    with running() as (_, port):
        first, other = (
            f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for path in ("/slow", "/")
        )
        # The bodies of these are parsed while the first one waits.
        post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"
        few = answers_of(connect(port, first + (other + post) * 5))
        assert few.count(b"HTTP/1.1 200") == 11
        begin = time.monotonic()
        assert answers_of(connect(port, first + other * 3000)) == b""
        # Not after the answer to the first.
        assert time.monotonic() - begin < 0.9


def test_who_leaves_with_several_requests_open_is_noticed_by_the_one_that_is_answered():
    with running() as (_, port):
        gone.clear()
        waits, other = (
            f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for path in ("/wait", "/")
        )
        arrived.clear()
        one = connect(port, waits + other * 3)
        assert arrived.wait(10)
        one.close()
        assert gone.wait(10)


def test_what_is_no_http_is_refused_with_a_sentence_and_never_as_another_requests_answer():
    with running() as (_, port):
        told = answers_of(connect(port, b"GET / HTTP/1.1\r\nhost : x\r\n\r\n"))
        assert told.startswith(b"HTTP/1.1 400 ")
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"] == {
            "code": "invalid_request",
            "message": "The request is no valid HTTP/1.1.",
        }
        assert answers_of(connect(port, b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n\0\0\0")) == b""


class _Opened:
    def __init__(self) -> None:
        self.transport, self.aborted = self, False

    def abort(self) -> None:
        self.aborted = True


def test_one_address_has_so_many_connections_and_loopback_any():
    places = Connections(ServiceConfig(max_connections_per_address=2), lambda count: None)
    ones = [_Opened() for _ in range(3)]
    assert [places.add(one, "192.0.2.1") for one in ones] == [True, True, False]
    assert places.add(_Opened(), "192.0.2.2")
    assert all(places.add(_Opened(), "127.0.0.1") for _ in range(5))
    same = ["2001:db8::1", "2001:db8::2", "2001:db8::3"]
    assert [places.add(_Opened(), address) for address in same] == [True, True, False]
    places.remove(ones[0])
    time.sleep(0.1)  # for `connections_per_minute`
    assert places.add(_Opened(), "192.0.2.1")


def test_one_address_opens_so_many_connections_a_minute_and_loopback_any():
    config = ServiceConfig(max_connections_per_address=3, connections_per_minute=60)
    places = Connections(config, lambda count: None)

    def opened(address: str) -> bool:
        one = _Opened()
        there = places.add(one, address)
        places.remove(one)
        return there

    assert [opened("192.0.2.1") for _ in range(5)] == [True] * 3 + [False] * 2
    assert opened("192.0.2.2")
    assert all(opened("127.0.0.1") for _ in range(200))
    time.sleep(1.1)
    assert [opened("192.0.2.1") for _ in range(2)] == [True, False]


def test_a_server_that_loses_something_answers_what_it_has_and_ends():
    config = ServiceConfig()
    listening = listen("127.0.0.1", 0, config)
    started = threading.Event()
    server = Server(answering, config, listening, started.set)
    thread = threading.Thread(target=server.serve_until_told, daemon=True)
    thread.start()
    assert started.wait(30)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/slow"
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.get(url, timeout=30)))
    arrived.clear()
    asking.start()
    assert arrived.wait(30)
    server.lose("the generators")
    thread.join(30)
    asking.join(30)
    assert not thread.is_alive()
    assert answers[0].is_success


def test_a_used_port_and_an_unknown_host_are_told_before_a_model_is_loaded(capsys):
    begin = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as left:
            serve(port=port)
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: port is {port} on 127.0.0.1, which cannot be used: Address al")
    with pytest.raises(SystemExit):
        serve(port=70000)
    assert capsys.readouterr().err.strip() == "error: port is 70000, allowed: 0 to 65535"
    assert time.monotonic() - begin < 20


def test_sigterm_ends_the_server_with_a_sentence_and_143(capsys):
    @user_errors()
    def command() -> None:
        listening = listen("127.0.0.1", 0, ServiceConfig(**LIMITS))
        tell = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        Server(answering, ServiceConfig(**LIMITS), listening, tell.start).serve_until_told()

    with pytest.raises(SystemExit) as left:
        command()
    assert (left.value.code, capsys.readouterr().err) == (143, "terminated\n")
