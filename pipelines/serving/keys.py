"""API keys and rates.

A key is `iid_ID_SECRET`: 8 hexadecimal digits that name it, and 32 random bytes. What is kept is
`blake2b$ID$SALT$HASH`. A secret that nobody can guess needs no slow hash: one lookup by ID and one
BLAKE2b tell a wrong key, so strangers cost microseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from pipelines.serving.errors import ServiceError

__all__ = ["KeyRing", "RateLimit", "hash_key", "new_key", "read_hashes"]

_KEY = re.compile(r"iid_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_ENTRY = re.compile(r"blake2b\$([0-9a-f]{8})\$([0-9a-f]{32})\$([0-9a-f]{64})")
# What earlier versions kept: scrypt's salt and hash.
_SCRYPT = re.compile(r"[0-9a-f]{16,}\$[0-9a-f]{128}")
_RENEW = "make a new one with: infinite-id serve --new-key"


def new_key() -> str:
    """A key that nobody has; keep what `hash_key` makes of it."""
    return f"iid_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """The entry for `key_hashes`: "blake2b$ID$SALT$HASH".

    Raises:
        ValueError: `key` was not made by `new_key`: a short one could be guessed from its hash.
    """
    parts = _KEY.fullmatch(key)
    if parts is None:
        raise ValueError(f"the key is no iid_ID_SECRET; {_RENEW}")
    salt = secrets.token_bytes(16)
    return f"blake2b${parts[1]}${salt.hex()}${_digest(key, salt).hex()}"


def read_hashes(path: str) -> tuple[str, ...]:
    """The entries of a text file, one a line; empty lines and lines that begin with # are skipped.

    Raises:
        ValueError: it cannot be read, or holds none.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"key_file is {path!r}, which cannot be read: {error}") from None
    found = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not found:
        raise ValueError(f"key_file is {path!r}, which holds no key hash")
    return found


def _digest(key: str, salt: bytes) -> bytes:
    return hashlib.blake2b(key.encode(), key=salt, digest_size=32).digest()


class KeyRing:
    """Checks keys against their hashes.

    Args:
        hashes: of `hash_key`; empty: everybody is let in as "anonymous".

    Raises:
        ValueError: an entry is none of `hash_key`'s, or two have one ID.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes: dict[str, tuple[bytes, bytes]] = {}
        for number, entry in enumerate(hashes, 1):
            parts = _ENTRY.fullmatch(entry)
            if parts is None:
                kind = "an scrypt hash of an earlier version" if _SCRYPT.fullmatch(entry) else ""
                raise ValueError(
                    f"key hash number {number} is {kind or 'malformed'}, allowed: "
                    f"blake2b$ID$SALT$HASH; {_RENEW}"
                )
            if parts[1] in self._hashes:
                raise ValueError(f"key hash number {number} has the ID {parts[1]} of another one")
            self._hashes[parts[1]] = bytes.fromhex(parts[2]), bytes.fromhex(parts[3])

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def owner(self, authorization: str | None) -> str:
        """Short name of the key of an Authorization header: "key-ID".

        Raises:
            ServiceError: 401, the key is missing or unknown.
        """
        if not self._hashes:
            return "anonymous"
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip(" \t")
        if scheme.lower() != "bearer" or not key:
            raise ServiceError(401, "no_key", "The request needs Authorization: Bearer KEY.")
        parts = _KEY.fullmatch(key)
        known = None if parts is None else self._hashes.get(parts[1])
        if known is None or not hmac.compare_digest(_digest(key, known[0]), known[1]):
            raise ServiceError(401, "wrong_key", "The API key is not known.")
        return f"key-{key[4:12]}"


class RateLimit:
    """A token bucket each, refilled evenly.

    Args:
        per_minute: None: any.
        burst: what a full bucket holds; None: a minute's.
        refusal: seconds to wait -> what is raised where a bucket is empty.
        clock: seconds.
        most: buckets; the one that was used longest ago is forgotten, which is full again.
    """

    def __init__(
        self,
        per_minute: int | None,
        refusal: Callable[[int], ServiceError] | None = None,
        clock: Callable[[], float] = time.monotonic,
        most: int = 10_000,
        burst: int | None = None,
    ) -> None:
        self._per_minute, self._clock, self._most = per_minute, clock, most
        self._burst = float(burst or per_minute or 0)
        self._refusal = refusal or self._used_up
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = Lock()

    def _used_up(self, wait: int) -> ServiceError:
        message = f"This key has used its {self._per_minute} requests per minute."
        return ServiceError(429, "rate_limited", message, wait)

    def take(self, whose: str) -> None:
        """Raises a ServiceError, 429, where the bucket is empty."""
        if self._per_minute is None:
            return
        with self._lock:
            self._take(whose, self._per_minute)

    def _take(self, whose: str, per_minute: int) -> None:
        now = self._clock()
        tokens, then = self._buckets.pop(whose, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * per_minute / 60)
        empty = tokens < 1
        self._buckets[whose] = (tokens if empty else tokens - 1, now)
        while len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        if empty:
            raise self._refusal(int((1 - tokens) * 60 / per_minute) + 1)
