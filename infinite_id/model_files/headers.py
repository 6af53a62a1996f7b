"""Headers of safetensors files: names, types and shapes without the weights. Torch-free."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["first_line", "parameters_of", "read_header", "shapes_of"]

_LARGEST_HEADER = 100_000_000


def read_header(path: str | Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: of each tensor its dtype, shape and place.

    Raises:
        ValueError: it is no such file, or shorter than its header says; names it.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, _LARGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        ends = [int(v["data_offsets"][1]) for k, v in header.items() if k != "__metadata__"]
    except OSError as error:
        raise ValueError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"weights {path} are no whole safetensors file: {first_line(error)}"
        ) from error
    needed = 8 + length + max(ends, default=0)
    if size != needed:
        raise ValueError(
            f"weights {path} have {size:,} bytes, their header says {needed:,}: the file is not "
            "whole, download it again"
        )
    return header


def shapes_of(header: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes of a header."""
    return {k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"}


def parameters_of(header: Mapping[str, Mapping[str, Any]]) -> int:
    """The number of a header's parameters."""
    return sum(math.prod(shape) for shape in shapes_of(header).values())


def first_line(error: BaseException) -> str:
    """What an error says first, else its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
