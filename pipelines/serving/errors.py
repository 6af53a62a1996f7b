"""The service's refusals: an answer is a client's error (`infinite_id.client.errors`)."""

from __future__ import annotations

from infinite_id.client.errors import ServiceError

__all__ = ["ServiceError", "let_go", "overloaded"]


def let_go(error: BaseException | None) -> None:
    """Parts an error from the frames that it has come through, which hold photos and bodies.

    An error that is kept, and those frames, keep each other; Python finds such circles seldom, and
    by their number, not by their size.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def overloaded(what: str) -> ServiceError:
    """503 with Retry-After: too much of `what` waits already."""
    return ServiceError(503, "overloaded", f"Too many {what} wait already: try again.", 2)
