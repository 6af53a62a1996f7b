"""The service's refusals: an answer is a client's error (`infinite_id.client.errors`)."""

from __future__ import annotations

from infinite_id.client.errors import ServiceError

__all__ = ["ServiceError", "overloaded"]


def overloaded(what: str) -> ServiceError:
    """503 with Retry-After: too much of `what` waits already."""
    return ServiceError(503, "overloaded", f"Too many {what} wait already: try again.", 2)
