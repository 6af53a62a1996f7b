"""One row a picture: who, when, what. No prompt and no photo."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence

from infinite_id.types import GenerationRequest
from pipelines.serving.errors import ServiceError

__all__ = ["AuditLog"]

_LOG = logging.getLogger(__name__)

_TABLE = """CREATE TABLE IF NOT EXISTS pictures (
    at REAL NOT NULL, owner TEXT NOT NULL, sample_id TEXT NOT NULL, method TEXT NOT NULL,
    seed TEXT NOT NULL, sha256 TEXT NOT NULL)"""


class AuditLog:
    """A SQLite file; None keeps nothing. Safe in several threads.

    Raises:
        ValueError: it cannot be opened or written, or is no SQLite file.
    """

    def __init__(self, path: str | None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._base = None
        if path is None:
            return
        try:
            self._base = sqlite3.connect(path, check_same_thread=False)
            self._base.execute(_TABLE)
            # A file on a read-only disk opens, has the table, and begins what would write.
            self._base.execute("DELETE FROM pictures WHERE FALSE")
            self._base.commit()
        except sqlite3.Error as error:
            self.close()
            raise ValueError(f"audit_path is {path!r}, which cannot be used: {error}") from None

    def add(
        self, owner: str, requests: Sequence[GenerationRequest], files: Sequence[bytes]
    ) -> None:
        """Writes down pictures: requests and the encoded files, in one order.

        Raises:
            ServiceError: 500, `audit_failed`: the file cannot be written any more.
        """
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
        try:
            with self._lock, self._base:
                self._base.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            _LOG.error("audit_path %s cannot be written: %s", self._path, error)
            message = (
                "The service cannot write down that the picture was made, so it does not send it."
            )
            # Not 503, which clients ask again: each try would cost a picture that nobody gets.
            raise ServiceError(500, "audit_failed", message) from None

    def close(self) -> None:
        """Closes the file."""
        if self._base is not None:
            self._base.close()
