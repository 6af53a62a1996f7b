"""`cluster/nginx.conf` in a real nginx, with short times, before a bare application."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

CONF = Path(__file__).parents[3] / "cluster" / "nginx.conf"


SEEN: list[str] = []
"""Paths that reached the service."""


async def echo(request: Request) -> JSONResponse:
    SEEN.append(request.url.path)
    body = await request.body()
    hosts = request.headers.getlist("host")
    return JSONResponse({"headers": dict(request.headers), "hosts": hosts, "bytes": len(body)})


async def slow(request: Request) -> JSONResponse:
    await asyncio.sleep(1.5)
    return JSONResponse({})


async def events(request: Request) -> StreamingResponse:
    async def told():
        yield "event: queued\n\n"
        await asyncio.sleep(0.7)
        yield "event: result\n\n"

    return StreamingResponse(told(), media_type="text/event-stream")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory, need):
    """(port of nginx, folder of its logs); what the test changes is addresses, paths and times."""
    need("nginx", shutil.which("nginx") is not None, "apt-get install nginx")
    folder = tmp_path_factory.mktemp("nginx")
    key, certificate = folder / "infinite-id.key", folder / "infinite-id.crt"
    made = ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *made]
    subprocess.run(request, check=True, capture_output=True)
    port, behind = free_port(), free_port()
    text = CONF.read_text()
    for old, new in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{behind};",
        "/etc/nginx/": f"{folder}/",
        "/var/log/nginx/": f"{folder}/",
        "client_header_timeout 10s;": f"client_header_timeout 1s; client_body_temp_path {folder}/b;"
        f" proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;"
        f" uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;",
        "client_body_timeout 10s;": "client_body_timeout 1s;",
        "worker_processes auto;": "worker_processes 1;",
        # All requests of this file together are within the burst, but for those of its last test.
        "rate=20r/s;": "rate=20r/m;",
    }.items():
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    app = Starlette(
        routes=[
            Route("/slow", slow),
            Route("/v1/generate", events),
            Route("/{path:path}", echo, methods=["GET", "POST"]),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, port=behind, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    nginx = subprocess.Popen([*command, "-g", f"daemon off; pid {folder}/pid;"])
    until = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            socket.create_connection(("127.0.0.1", behind), 1).close()
            break
        assert nginx.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    yield port, folder
    nginx.terminate()
    nginx.wait(20)
    server.should_exit = True
    thread.join(20)


def context() -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


@pytest.fixture
def http(proxied):
    url = f"https://localhost:{proxied[0]}"
    with httpx.Client(base_url=url, verify=context(), timeout=20) as http:
        yield http


def test_the_service_sees_the_host_and_the_address_of_the_caller(http):
    lie = {"Host": "pictures.example", "X-Forwarded-For": "192.0.2.7"}
    seen = http.get("/v1/styles", headers=lie).json()["headers"]
    assert (seen["host"], seen["x-forwarded-for"]) == ("pictures.example", "127.0.0.1")
    assert seen["x-forwarded-proto"] == "https"


def test_events_come_as_they_are_told(http):
    begin = time.monotonic()
    with http.stream("GET", "/v1/generate") as answer:
        times = [(line, time.monotonic() - begin) for line in answer.iter_lines() if line]
    assert [line for line, _ in times] == ["event: queued", "event: result"]
    assert times[1][1] - times[0][1] > 0.4


def told(port: int, data: bytes) -> bytes:
    """All that is answered to raw bytes, until nginx closes the connection."""
    got = b""
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    with context().wrap_socket(plain) as one:
        one.sendall(data)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while part := one.recv(4096):
                got += part
    return got


CLOSE = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_line", "hosts"),
    [
        (b"GET /v1/styles HTTP/1.1\r\nHost: Pictures.Example:8443\r\n", ["pictures.example"]),
        # What the line says goes before the header (RFC 9112).
        (b"GET https://a.example/v1/styles HTTP/1.1\r\nHost: b.example\r\n", ["a.example"]),
        # HTTP/1.0 has none, and the service answers no request without.
        (b"GET /v1/styles HTTP/1.0\r\n", ["_"]),
    ],
)
def test_the_service_is_given_one_host(proxied, request_line, hosts):
    head, _, body = told(proxied[0], request_line + CLOSE).partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    assert json.loads(body)["hosts"] == hosts


def test_probes_and_numbers_need_no_host(proxied):
    for path in (b"/healthz", b"/readyz", b"/metrics"):
        answered = told(proxied[0], b"GET " + path + b" HTTP/1.0\r\n" + CLOSE)
        assert b" 200 " in answered.splitlines()[0], path


def test_two_hosts_reach_nobody(proxied):
    SEEN.clear()
    data = b"GET /v1/styles HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n" + CLOSE
    assert told(proxied[0], data).startswith(b"HTTP/1.1 400 ")
    assert SEEN == []


HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{"


@pytest.mark.parametrize(
    "data", [b"", b"GET /v1/st", HEAD % 9000], ids=["nothing", "half headers", "half body"]
)
def test_who_is_slow_is_sent_away(proxied, data):
    begin = time.monotonic()
    # Without an answer, or with that of the time-out.
    assert (told(proxied[0], data) or b"HTTP/1.1 408 ").startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begin < 8


def test_what_nginx_refuses_has_the_shape_of_our_errors(proxied):
    head, _, body = told(proxied[0], HEAD % 99_999_999).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    error = json.loads(body)["error"]
    # The number in its sentence is that of the setting.
    assert "client_max_body_size 32m" in CONF.read_text()
    assert error == {"code": "too_large", "message": f"The request has more than {32 << 20} bytes."}


def test_one_address_has_so_many_requests_at_once(proxied):
    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=30)
        url = f"https://localhost:{proxied[0]}"
        async with httpx.AsyncClient(verify=context(), limits=limits, timeout=20) as many:
            return await asyncio.gather(*(many.get(f"{url}/slow") for _ in range(26)))

    answers = asyncio.run(ask())
    refused = [one for one in answers if one.status_code == 429]
    assert sorted({one.status_code for one in answers}) == [200, 429]
    assert len(refused) == 6
    assert refused[0].json()["error"]["code"] == "too_many_connections"
    assert refused[0].headers["retry-after"] == "2"


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
# What two servers on the way may read differently: where the first request ends.
AMBIGUOUS = {
    "both lengths": (b"Content-Length: %d\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN),
    "two lengths": (b"Content-Length: 0\r\nContent-Length: %d", HIDDEN),
    "a signed length": (b"Content-Length: +%d", HIDDEN),
    "a list of lengths": (b"Content-Length: 0, %d", HIDDEN),
    "a coding nobody knows": (b"Content-Length: %d\r\nTransfer-Encoding: xchunked", HIDDEN),
    "a coding twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", HIDDEN),
    "a space before the colon": (b"Content-Length : %d", HIDDEN),
    "a tab in a coding": (b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n" + HIDDEN),
    "a number too large": (b"Transfer-Encoding: chunked", b"f" * 20 + b"\r\n" + HIDDEN),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_no_request_hides_in_another(proxied, name):
    head, body = AMBIGUOUS[name]
    if b"%d" in head:
        head %= len(body)
    SEEN.clear()
    data = b"POST /first HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body
    answered = told(proxied[0], data)
    # Refused, or all of it is the first request's body.
    assert answered.count(b"HTTP/1.1 ") == 1, answered
    assert "/hidden" not in SEEN


def test_no_path_is_logged(proxied, http):
    http.get("/v1/identities/id_secret/photos/0")
    time.sleep(0.1)
    logs = "".join(path.read_text() for path in proxied[1].glob("*.log"))
    assert " GET 200 " in logs
    assert "id_secret" not in logs


def test_one_address_asks_so_often(http):
    for _ in range(200):
        answer = http.get("/v1/styles")
        if answer.status_code == 429:
            break
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "too_many_connections"
