"""A hub of models on this machine, as far as one is asked here: files or parts of them, digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

__all__ = ["Hub", "hub"]

_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)")
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)/paths-info/[^/]+")


class Hub:
    """Files by `OWNER/NAME/FILE`, and how many of their bytes were sent."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files, self.sent = dict(files), 0


@contextlib.contextmanager
def hub(monkeypatch: pytest.MonkeyPatch, cache: Path, files: Mapping[str, Path]) -> Iterator[Hub]:
    """The hub that huggingface_hub asks inside, with an empty cache in a folder."""
    made = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = _FILE.fullmatch(self.path)
            path = made.files.get(f"{asked[1]}/{asked[2]}") if asked else None
            if path is None:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            begin, end = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["range"]).groups()  # type: ignore[union-attr]
            with path.open("rb") as stream:
                stream.seek(int(begin))
                part = stream.read(int(end) - int(begin) + 1)
            made.sent += len(part)
            self._answer(206, part, {})

        def do_POST(self) -> None:
            asked = _INFO.fullmatch(self.path)
            assert asked is not None
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            told = []
            for name in parse_qs(body)["paths"]:
                path = made.files.get(f"{asked[1]}/{name}")
                if path is not None:
                    size, digest = path.stat().st_size, hashlib.sha256(name.encode()).hexdigest()
                    lfs = {"size": size, "oid": digest, "pointerSize": 134}
                    told.append(
                        {"type": "file", "path": name, "size": size, "oid": "0" * 40, "lfs": lfs}
                    )
            self._answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        place = "huggingface_hub.constants"
        monkeypatch.setattr(f"{place}.ENDPOINT", url)
        pattern = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{place}.HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setattr(f"{place}.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(f"{place}.HF_HUB_OFFLINE", False)
        yield made
        server.shutdown()
