"""Failures of places that are read or written, as one sentence that names the place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa

__all__ = ["StorageError", "guarding"]

_CLIENTS = ("botocore", "aiobotocore", "aiohttp")


class StorageError(ValueError):
    """A place that cannot be read or written; the message is one sentence that names it."""


@contextlib.contextmanager
def guarding(verb: str, place: str) -> Iterator[None]:
    """Any failure of a place as a StorageError that names it.

    Args:
        verb: what is done, e.g. "read".
        place: its address.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        # boto's credential and endpoint errors share no base class with OSError.
        known = isinstance(error, (OSError, pa.ArrowInvalid))
        if not known and type(error).__module__.split(".")[0] not in _CLIENTS:
            raise
        raise StorageError(f"cannot {verb} {place}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
