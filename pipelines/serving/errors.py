"""The service's refusals: an answer is a client's error (`infinite_id.client.errors`)."""

from __future__ import annotations

from infinite_id.client.errors import ServiceError

__all__ = ["ServiceError", "let_go", "out_of_range", "overloaded"]


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


def out_of_range(name: str, value: str, allowed: str) -> ServiceError:
    """422: a field has a value that is not allowed."""
    return ServiceError(422, "out_of_range", f"{name} is {value}, allowed: {allowed}.", param=name)
