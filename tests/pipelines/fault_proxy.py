"""An HTTP proxy before an S3 server that answers some requests with an error, or late."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["FaultProxy", "fault_proxy"]

_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class FaultProxy:
    """What the proxy does; a test sets it.

    Attributes:
        url: of the proxy.
        code: of the error that a fault's body names.
        faults: statuses that the next requests get instead of an answer, one each.
        delay: seconds before every answer.
        seen: number of requests.
        authorization: header of the last request, None where it had none.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.code = "SlowDown"
        self.faults: list[int] = []
        self.delay = 0.0
        self.seen = 0
        self.authorization: str | None = None
        self.lock = threading.Lock()

    def next_fault(self) -> int | None:
        """The status of the next fault, None when they are used up."""
        with self.lock:
            self.seen += 1
            return self.faults.pop(0) if self.faults else None


@contextmanager
def fault_proxy(host: str, port: int) -> Iterator[FaultProxy]:
    """Runs a proxy to `host:port` on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            proxy.authorization = self.headers.get("Authorization")
            time.sleep(proxy.delay)
            fault = proxy.next_fault()
            if fault is not None:
                self._answer(fault, [], f"<Error><Code>{proxy.code}</Code></Error>".encode())
                return
            upstream = http.client.HTTPConnection(host, port, timeout=30)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
            upstream.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            length = {k.lower(): v for k, v in headers}.get("content-length")
            for name, value in headers:
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            head = self.command == "HEAD" and length is not None
            self.send_header("Content-Length", str(length if head else len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
