"""API keys and their rate."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from pipelines.serving.errors import ServiceError

__all__ = ["KeyRing", "RateLimit", "hash_key"]

_REMEMBERED = 1024


def hash_key(key: str, salt: bytes | None = None) -> str:
    """ "salt$hash" in hex: scrypt with n 2**14, r 8, p 1."""
    salt = os.urandom(16) if salt is None else salt
    derived = hashlib.scrypt(key.encode(), salt=salt, n=2**14, r=8, p=1)
    return f"{salt.hex()}${derived.hex()}"


class KeyRing:
    """Checks keys against their hashes.

    Args:
        hashes: of `hash_key`; empty: everybody is let in as "anonymous".
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        for entry in hashes:
            salt, dollar, derived = entry.partition("$")
            if not dollar or len(salt) < 16 or len(derived) != 128:
                raise ValueError("a key hash is malformed, allowed: what hash_key returns")
        self._hashes = tuple(hashes)
        # scrypt takes 50 ms: what was found for a key is kept under its SHA-256, never the key.
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def owner(self, authorization: str | None) -> str:
        """Short name of the key of an Authorization header.

        Raises:
            ServiceError: 401, the key is missing or unknown.
        """
        if not self._hashes:
            return "anonymous"
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key or len(key) > 512:
            raise ServiceError(401, "no_key", "The request needs Authorization: Bearer KEY.")
        digest = hashlib.sha256(key.encode()).digest()
        with self._lock:
            known = self._known.get(digest)
        if known is not None:
            return known
        found = None
        for entry in self._hashes:
            # All are compared, so that the time does not tell which one fits.
            if hmac.compare_digest(hash_key(key, bytes.fromhex(entry.partition("$")[0])), entry):
                found = f"key-{entry.partition('$')[0][:8]}"
        if found is None:
            raise ServiceError(401, "wrong_key", "The API key is not known.")
        with self._lock:
            self._known[digest] = found
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found


class RateLimit:
    """A token bucket a key: `per_minute` requests, refilled evenly."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, owner: str) -> None:
        """Raises a ServiceError, 429, where the bucket is empty."""
        if self._per_minute is None:
            return
        with self._lock:
            self._take(owner, self._per_minute)

    def _take(self, owner: str, per_minute: int) -> None:
        now = self._clock()
        tokens, then = self._buckets.get(owner, (float(per_minute), now))
        tokens = min(per_minute, tokens + (now - then) * per_minute / 60)
        if tokens < 1:
            wait = int((1 - tokens) * 60 / per_minute) + 1
            raise ServiceError(
                429,
                "rate_limited",
                f"This key has used its {per_minute} requests a minute.",
                wait,
            )
        self._buckets[owner] = (tokens - 1, now)
