"""One row a picture: who, when, what. No prompt and no photo."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Sequence

from infinite_id.types import GenerationRequest

__all__ = ["AuditLog"]

_TABLE = """CREATE TABLE IF NOT EXISTS pictures (
    at REAL NOT NULL, owner TEXT NOT NULL, sample_id TEXT NOT NULL, method TEXT NOT NULL,
    seed TEXT NOT NULL, sha256 TEXT NOT NULL)"""


class AuditLog:
    """A SQLite file; None keeps nothing. Safe in several threads.

    Raises:
        ValueError: it cannot be opened or written, or is no SQLite file.
    """

    def __init__(self, path: str | None) -> None:
        self._lock = threading.Lock()
        self._base = None
        if path is None:
            return
        try:
            self._base = sqlite3.connect(path, check_same_thread=False)
            # A file on a read-only disk opens, and has the table.
            self._base.execute("BEGIN IMMEDIATE")
            self._base.execute(_TABLE)
            self._base.commit()
        except sqlite3.Error as error:
            self.close()
            raise ValueError(f"audit_path is {path!r}, which cannot be used: {error}") from None

    def add(
        self, owner: str, requests: Sequence[GenerationRequest], files: Sequence[bytes]
    ) -> None:
        """Writes down pictures: requests and the encoded files, in one order."""
        if self._base is None:
            return
        now = time.time()
        rows = [
            (
                now,
                owner,
                request.sample_id,
                request.method,
                str(request.seed),
                hashlib.sha256(file).hexdigest(),
            )
            for request, file in zip(requests, files, strict=True)
        ]
        with self._lock, self._base:
            self._base.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Closes the file."""
        if self._base is not None:
            self._base.close()
