"""Bodies, bytes in flight, slow uploads and stalled readers, on a bare ASGI application."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pipelines.serving.callers import Callers
from pipelines.serving.config import ServiceConfig
from pipelines.serving.guard import Guard
from pipelines.serving.keys import KeyRing
from pipelines.serving.measures import Measures


async def counting(scope, receive, send) -> None:
    """Answers with the length of the body; refuses as FastAPI does what it cannot read."""
    try:
        answer = JSONResponse({"bytes": len(await Request(scope, receive).body())})
    except Exception:
        answer = JSONResponse({"error": "parsing"}, 400)
    await answer(scope, receive, send)


def guarded(app: Any = counting, **settings: Any) -> Guard:
    config = ServiceConfig(**{"max_body_bytes": 2000, "max_inflight_bytes": 3000, **settings})

    async def take(deadline, owner) -> None:
        pass

    return Guard(app, config, Measures(), Callers(KeyRing(()), (), 9), take)


def post(guard: Guard, content: Any, path: str = "/v1/generate") -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.post(path, content=content)

    return asyncio.run(ask())


async def chunks(count: int):
    for _ in range(count):
        yield b"x" * 500


@pytest.mark.parametrize("content", [b"x" * 2000, chunks(4)], ids=["announced", "chunked"])
def test_a_body_of_the_largest_size(content):
    guard = guarded()
    assert post(guard, content).json() == {"bytes": 2000}
    assert guard.held == 0


@pytest.mark.parametrize("content", [b"x" * 2001, chunks(5)], ids=["announced", "chunked"])
def test_a_larger_body_is_413_however_it_comes(content):
    guard = guarded()
    answer = post(guard, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert guard.held == 0


@pytest.mark.parametrize("content", [b"x" * 1500, chunks(3)], ids=["announced", "chunked"])
def test_bytes_in_flight_are_bounded(content):
    guard = guarded()
    guard.held = 2000
    answer = post(guard, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "2"
    assert guard.held == 2000
    assert b'rejected_total{code="overloaded"} 1.0' in guard.measures.text()


def test_refusals_have_openais_shape_on_its_routes():
    answer = post(guarded(), b"x" * 2001, "/v1/images/generations")
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_upload_that_never_ends_is_408():
    async def slow():
        yield b"x"
        await asyncio.sleep(60)

    answer = post(guarded(request_timeout_seconds=0.2), slow())
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "slow_body")


def test_an_unexpected_error_is_a_500_whose_message_is_not_logged(caplog):
    async def failing(scope, receive, send) -> None:
        raise KeyError("a prompt")

    with caplog.at_level("ERROR", logger="pipelines.serving.guard"):
        answer = post(guarded(failing), b"")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "KeyError at" in caplog.text
    assert "a prompt" not in caplog.text


def test_a_reader_that_stalls_is_given_up():
    closed = []

    async def endless():
        try:
            while True:
                yield b"data"
        finally:
            closed.append(True)

    async def streaming(scope, receive, send) -> None:
        await StreamingResponse(endless())(scope, receive, send)

    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)
        if len(sent) == 3:
            await asyncio.sleep(60)

    async def receive() -> dict:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    guard = guarded(streaming, send_timeout_seconds=0.2)
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "path": "/", "headers": headers, "method": "GET", "asgi": {}}
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 20))
    assert closed
    assert len(sent) == 3
    assert b'code="stalled_reader"' in guard.measures.text()


async def large(scope, receive, send) -> None:
    await Response(bytes(1 << 20))(scope, receive, send)


@pytest.mark.parametrize(
    ("slowest", "whole"), [(1 << 20, True), (1 << 30, False)], ids=["slow", "too slow"]
)
def test_a_slow_reader_is_waited_for_as_long_as_it_reads(monkeypatch, slowest, whole):
    monkeypatch.setattr("pipelines.serving.guard._SLOWEST", slowest)
    sent: list[bytes] = []

    async def send(message: dict) -> None:
        # A MiB in 0.8 s, which is more than the time in which a part has to be read.
        body = message.get("body", b"")
        await asyncio.sleep(0.8 * len(body) / (1 << 20))
        sent.append(body)

    async def receive() -> dict:
        return {"type": "http.request"}

    guard = guarded(large, send_timeout_seconds=0.3)
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "path": "/", "headers": headers, "method": "GET", "asgi": {}}
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 20))
    assert max(map(len, sent)) == 64 << 10
    assert (sum(map(len, sent)) == 1 << 20) == whole
    assert (b'code="stalled_reader"' in guard.measures.text()) != whole


def test_a_body_limit_above_all_bodies_is_refused():
    with pytest.raises(ValueError, match="max_body_bytes is 4000, allowed: at most"):
        guarded(max_body_bytes=4000)
