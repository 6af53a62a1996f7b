"""A check of every picture and preview before it is sent.

`safety_check: open_nsfw`, the default, is Yahoo's network for whole photographs
(`eval.judges.nsfw`). `module:function` names one of the operator's: it takes a picture, uint8
(H, W, 3) RGB, and returns True where it may be shown. It runs in the ingress. Requests cannot name
one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipelines.serving.config import ServiceConfig

__all__ = ["SafetyCheck", "blurred", "load_safety_check"]

SafetyCheck = Callable[[NDArray[np.uint8]], bool]
# Of the longer side: neither a face nor a figure is left.
_BLUR = 0.125


def load_safety_check(config: ServiceConfig) -> SafetyCheck | None:
    """The check of the settings; None where there is none.

    Raises:
        ValueError: there is no such module or function.
        PackageFileError: the network's package is missing or is not the one expected.
    """
    path = config.safety_check
    if path is None:
        return None
    if path == "open_nsfw":
        from eval.judges.nsfw import NsfwJudge

        judge = NsfwJudge()
        return lambda image: bool(judge.score([image])[0] < config.safety_threshold)
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"safety_check is {path!r}, its module does not load: {error}") from error
    if not callable(found):
        raise ValueError(f"safety_check is {path!r}, allowed: module:function that exists")
    return found


def blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture as patches of colour, uint8 (H, W, 3)."""
    import cv2

    sigma = _BLUR * max(image.shape[:2])
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
