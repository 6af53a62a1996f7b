"""Where a training's one checkpoint lies: replaced in one step, or left as it was."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

__all__ = ["CheckpointError", "CheckpointStore", "LocalStore"]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the last one written is intact."""


class CheckpointStore(Protocol):
    """Where one checkpoint lies. Writing replaces it in one step or leaves it as it was."""

    def read(self) -> bytes | None:
        """The checkpoint, None where there is none."""
        ...

    def write(self, data: bytes) -> None:
        """Replaces the checkpoint."""
        ...


class LocalStore:
    """A checkpoint in a local file: written beside it, flushed to the disk, then renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes | None:
        """The file's bytes, None where it is missing."""
        return self.path.read_bytes() if self.path.is_file() else None

    def write(self, data: bytes) -> None:
        """Replaces the file.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written.
        """
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {self.path} cannot be written ({error.strerror}); "
                "the former one is intact"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
