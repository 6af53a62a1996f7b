"""How a run fails: the error that ends it, and the cause under Ray's wrapping."""

from __future__ import annotations

__all__ = ["RunFailedError", "root_cause"]


class RunFailedError(RuntimeError):
    """A run that stopped in the middle; the message is one sentence. What is committed stays."""


def root_cause(error: BaseException) -> BaseException:
    """The exception that an actor raised, out of Ray's wrapping."""
    seen = error
    while type(seen).__module__.split(".")[0] == "ray":
        inner = getattr(seen, "cause", None) or seen.__cause__
        if not isinstance(inner, BaseException):
            break
        seen = inner
    return seen
