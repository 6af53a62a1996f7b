"""A disk that is full after so many bytes, as far as one process can see."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

__all__ = ["files_of_at_most"]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes inside: writing fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
