"""How a run fails: the error that ends it, and the cause under Ray's wrapping."""

from __future__ import annotations

from pipelines.storage_errors import StorageError

__all__ = ["RunFailedError", "root_cause"]


class RunFailedError(RuntimeError):
    """A run that stopped in the middle; the message is one sentence. What is committed stays."""


def root_cause(error: BaseException) -> BaseException:
    """The exception that an actor raised, out of Ray's wrapping.

    What a constructor raised arrives as text alone; it is made again where its kind is one that
    callers tell apart (RunFailedError, StorageError, ValueError).
    """
    seen = error
    while type(seen).__module__.split(".")[0] == "ray":
        inner = getattr(seen, "cause", None) or seen.__cause__
        # Ray Data chains an empty one to whatever it does not know.
        if not isinstance(inner, BaseException) or not str(inner):
            break
        seen = inner
    if getattr(seen, "actor_init_failed", False):
        return _told(seen) or seen
    return seen


def _told(error: BaseException) -> BaseException | None:
    """The exception that the last line of a traceback's text names."""
    name, _, message = str(error).rstrip().rpartition("\n")[2].partition(": ")
    kinds = {kind.__name__: kind for kind in (RunFailedError, StorageError, ValueError)}
    kind = kinds.get(name.rpartition(".")[2])
    return kind(message) if kind is not None and message else None
