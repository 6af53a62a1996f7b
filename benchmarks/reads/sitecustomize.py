"""With this folder in PYTHONPATH every Python process writes which weights it reads.

One JSON line a file, to a file of the process in the folder INFINITE_ID_READS: "load" where tensors
are taken from a safetensors file or an ONNX session is made, "digest" where its content is hashed.
Looking into a header is neither. Loads of a pickle (.bin) are not seen, its digests are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors

_FOLDER = os.environ.get("INFINITE_ID_READS")
_SUFFIXES = (".safetensors", ".bin", ".onnx")


def _write(what: str, file: Any) -> None:
    if _FOLDER is None or not str(file).endswith(_SUFFIXES):
        return
    line = {"process": os.getpid(), "what": what, "file": str(Path(file).resolve())}
    with (Path(_FOLDER) / f"{os.getpid()}.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")


class _Opened:
    """`safetensors.safe_open`, which says so when the first tensor is taken."""

    def __init__(self, filename: Any, *arguments: Any, **options: Any) -> None:
        self._file, self._inner = filename, _safe_open(filename, *arguments, **options)
        self._read = False

    def __enter__(self) -> _Opened:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._inner.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        if name in ("get_tensor", "get_slice", "get_tensors") and not self._read:
            self._read = True
            _write("load", self._file)
        return getattr(self._inner, name)


def _digest(stream: Any, *arguments: Any, **options: Any) -> Any:
    _write("digest", getattr(stream, "name", ""))
    return _file_digest(stream, *arguments, **options)


_safe_open: Callable[..., Any] = safetensors.safe_open
_file_digest = hashlib.file_digest
if _FOLDER is not None:
    safetensors.safe_open = _Opened  # type: ignore[assignment, misc]
    hashlib.file_digest = _digest  # type: ignore[assignment]
