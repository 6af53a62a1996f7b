"""An invisible watermark in every generated picture: a short text that survives encoding.

The library is invisible-watermark (the one that SDXL's own pipelines use), method dwtDctSvd: a
wavelet transform, DCT of its blocks, and the singular values of each block carry the bits. It
needs 256 px; what smaller pictures, JPEG and resizing do to it is in docs/data_sets.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_SIDE", "Watermark", "check_watermark"]

LEAST_SIDE = 256
"""Pixels of a picture's shorter side, below which there is no room for the bits."""

_METHOD = "dwtDctSvd"
_MOST_BYTES = 8


def check_watermark(text: str, height: int, width: int) -> None:
    """Checks a watermark against the pictures it is for.

    Raises:
        ValueError: the text is empty, too long or not ASCII, the pictures are too small, or the
            library is not installed.
    """
    if not text.isascii() or not 1 <= len(text) <= _MOST_BYTES:
        raise ValueError(f"watermark is {text!r}, allowed: 1 to {_MOST_BYTES} ASCII characters")
    if min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"pictures are {width} x {height} px, allowed with a watermark: sides of "
            f"{LEAST_SIDE} px or more"
        )
    _library()


def _library() -> Any:
    try:
        import imwatermark
    except ImportError as error:
        raise ValueError(
            "a watermark needs a package that is not installed: infinite-id-ray[watermark]"
        ) from error
    return imwatermark


class Watermark:
    """Writes and reads one text.

    Args:
        text: 1 to 8 ASCII characters; four survive more than eight.
    """

    def __init__(self, text: str) -> None:
        check_watermark(text, LEAST_SIDE, LEAST_SIDE)
        library = _library()
        self.text = text
        self._encoder = library.WatermarkEncoder()
        self._encoder.set_watermark("bytes", text.encode("ascii"))
        self._decoder = library.WatermarkDecoder("bytes", 8 * len(text))

    def embed(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture with the text in it; uint8 (H, W, 3) RGB, sides of 256 px or more."""
        marked = self._encoder.encode(np.ascontiguousarray(image[..., ::-1]), _METHOD)
        # The library's inverse transform leaves the range by a few values.
        return np.clip(np.rint(marked), 0, 255).astype(np.uint8)[..., ::-1]

    def read(self, image: NDArray[np.uint8]) -> bool:
        """Whether a picture carries the text, every bit of it."""
        found = self._decoder.decode(np.ascontiguousarray(image[..., ::-1]), _METHOD)
        return bytes(found) == self.text.encode("ascii")
