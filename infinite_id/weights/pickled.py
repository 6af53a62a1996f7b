"""Weights in torch's own format, read without executing anything in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

__all__ = ["load_pickled"]


def load_pickled(path: str | Path, device: str = "cpu") -> Any:
    """What `torch.save` wrote there: tensors and plain containers alone.

    Raises:
        ValueError: no such file, or something else; the message is the reason.
    """
    try:
        return torch.load(Path(path), map_location=device, weights_only=True)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except Exception as error:  # the unpickler's own, by the bytes that it meets
        # torch's own words advise to load without that check, which would run what a file says.
        raise ValueError("it holds something else than tensors, or is not whole") from error
