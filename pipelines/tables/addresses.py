"""Photos by address, wherever they lie."""

from __future__ import annotations

import base64
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from fsspec.implementations.local import LocalFileSystem

from eval.places import StorageError, place_of, reason_of

__all__ = ["check_regular", "read_uri"]

_LONGEST_SHOWN = 200


def read_uri(uri: str, options: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of one photo, wherever it lies: a path, ``file://`` with percent signs, ``data:``,
    or an address that fsspec knows.

    Raises:
        StorageError: the address cannot be read, whatever its file system raised.
    """
    name = uri if len(uri) <= _LONGEST_SHOWN else f"{uri[:_LONGEST_SHOWN]}..."
    try:
        if uri.startswith("data:"):
            return _data_of(uri)
        place = place_of(uri, options)
        check_regular(place.fs, place.path)
        return place.fs.cat_file(place.path)
    except StorageError:
        raise
    except Exception as error:  # each file system has errors of its own, OSError or not
        raise StorageError(f"cannot read {name}: {reason_of(error)}") from error


def check_regular(fs: Any, path: str) -> None:
    """Raises OSError where a pipe or a device lies there: reading one may never end."""
    if isinstance(fs, LocalFileSystem):
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError("it is no regular file")


def _data_of(uri: str) -> bytes:
    """What an RFC 2397 address holds."""
    kind, comma, text = uri.partition(",")
    if not comma:
        raise ValueError("a data: address needs a comma before its content")
    content = unquote_to_bytes(text)
    if not kind.endswith(";base64"):
        return content
    return base64.b64decode(b"".join(content.split()), validate=True)
