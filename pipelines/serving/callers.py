"""Who calls: the host that was asked, the page that asks, and the key; before anything is read."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from pipelines.serving.errors import ServiceError
from pipelines.serving.keys import KeyRing, RateLimit

__all__ = ["LOOPBACK", "TOO_MANY_FAILURES", "Callers", "is_loopback", "network"]

TOO_MANY_FAILURES = "too_many_failures"
"""Code of the answer to an address that tries keys."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HEALTH = ("/healthz", "/readyz")
_OPEN = (*_HEALTH, "/", "/metrics", "/openapi.json")
_OPEN_FOLDER = "/page/"


class Callers:
    """Names the owner of each request, or refuses it.

    With keys every path but the page's own files, probes, metrics and the OpenAPI needs one.
    Without keys the service trusts whoever reaches it, which on a loopback address is the machine's
    own people; but their browsers reach it too. So Host has to be a loopback name (a page of
    another host may point its name at 127.0.0.1: DNS rebinding), and Origin, where there is one,
    the service itself or listed.

    Args:
        keys: of the service.
        origins: pages on other hosts that may call.
        failures_per_minute: requests of one network without a key, or with a wrong one, that are
            answered with 401; more with 429. A right key is let in all the same: it costs no more
            to check.
    """

    def __init__(self, keys: KeyRing, origins: Sequence[str], failures_per_minute: int) -> None:
        self.keys, self._origins = keys, frozenset(origins)
        self._failures = RateLimit(failures_per_minute, _too_many)

    def owner(self, scope: Any) -> str | None:
        """Short name of the caller; None where the path needs none.

        Args:
            scope: ASGI's.

        Raises:
            ServiceError: 401, 403 or 429.
        """
        path, headers = scope["path"], Headers(scope=scope)
        if not self.keys and path not in _HEALTH:
            self._check_page(headers)
        if path in _OPEN or path.startswith(_OPEN_FOLDER):
            return None
        try:
            return self.keys.owner(headers.get("authorization"))
        except ServiceError:
            self._failures.take(network((scope.get("client") or ("unknown",))[0]))
            raise

    def _check_page(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if not is_loopback(urlsplit(f"//{host}").hostname or ""):
            message = "The Host header is no loopback name, and the service has no keys."
            raise ServiceError(403, "wrong_host", message)
        origin = headers.get("origin")
        if origin is None or origin in self._origins or urlsplit(origin).netloc == host:
            return
        message = "Pages of that origin may not call this service (cors_origins lists who may)."
        raise ServiceError(403, "wrong_origin", message)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, by itself and not by DNS."""
    if host.lower() in LOOPBACK:
        return True
    try:
        return _address(host).is_loopback
    except ValueError:
        return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    # A socket of both families gives IPv4 callers as ::ffff:192.0.2.1, all in one /64.
    found = ipaddress.ip_address(text)
    return getattr(found, "ipv4_mapped", None) or found


def network(address: str) -> str:
    """What counts as one caller: an IPv4 address, the /64 of an IPv6 address."""
    try:
        found = _address(address)
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _too_many(wait: int) -> ServiceError:
    message = "Too many requests without a right key came from this address: try again later."
    return ServiceError(429, TOO_MANY_FAILURES, message, wait)
