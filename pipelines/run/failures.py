"""How a run fails: which errors end it, and the cause under Ray's wrapping."""

from __future__ import annotations

import re
import sys

from eval.places import StorageError
from infinite_id.packages import PackageFileError

__all__ = ["RunFailedError", "is_fatal", "is_mistake", "root_cause"]


class RunFailedError(RuntimeError):
    """A run that stopped in the middle; the message is one sentence. What is committed stays."""


# How a traceback names an exception: its class, and the first line of its message.
_NAMED = re.compile(r"^([A-Za-z_][\w.]*): (.+)$", re.MULTILINE)


def is_fatal(error: BaseException, *, alone: bool) -> bool:
    """Whether an error is of the place and not of what was asked: a full disk, a broken GPU.

    Args:
        error: as a generator or a store raised it.
        alone: one request was asked for; a GPU whose memory several overflow may do for one.
    """
    if isinstance(error, (StorageError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    # Not imported: a process without torch has none of its errors, and is to stay without it.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return alone
    if torch is not None and isinstance(error, torch.AcceleratorError):
        return True
    return str(error).startswith(("CUDA error", "cuDNN error"))


def is_mistake(error: BaseException) -> bool:
    """Whether the user can set it right: wrong input, a place, a package, a checkpoint."""
    if isinstance(error, (ValueError, PackageFileError)):
        return True
    # By its name: the module that it is of loads torch.
    return type(error).__name__ == "CheckpointError"


def root_cause(error: BaseException) -> BaseException:
    """The exception that an actor raised, out of Ray's wrapping.

    Most arrive as text alone: what a constructor raised, and what a call of Ray Data's did. They
    are made again where their kind is one that callers tell apart (RunFailedError, StorageError,
    PackageFileError, ValueError); another kind becomes a RunFailedError that names it.
    """
    seen = error
    while type(seen).__module__.split(".")[0] == "ray":
        inner = _inner(seen)
        # Ray Data chains an empty one to whatever it does not know.
        if not isinstance(inner, BaseException) or not str(inner):
            break
        seen = inner
    if getattr(seen, "actor_init_failed", False):
        return _told(seen) or seen
    if type(seen).__name__ == "UserCodeException":
        return _told(error) or seen
    return seen


def _inner(error: BaseException) -> BaseException | None:
    """What an exception of Ray's was raised for."""
    workers = getattr(error, "worker_failures", None)
    if workers:
        causes = [root_cause(workers[rank]) for rank in sorted(workers)]
        # Where one worker ends, the others fail at their next exchange with it.
        return next((cause for cause in causes if is_mistake(cause)), causes[0])
    for name in ("cause", "controller_failure"):
        inner = getattr(error, name, None)
        if inner is not None:
            return inner
    return error.__cause__


def _told(error: BaseException) -> BaseException | None:
    """The last exception that is not Ray's own in a traceback's text."""
    told = (RunFailedError, StorageError, PackageFileError, ValueError)
    kinds = {kind.__name__: kind for kind in told}
    for name, message in reversed(_NAMED.findall(str(error))):
        if not name.startswith("ray."):
            kind = kinds.get(name.rpartition(".")[2])
            return kind(message) if kind else RunFailedError(f"{name}: {message}")
    return None
