"""Bytes of a photo from anywhere -> uint8 RGB, or one sentence on why not."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["PhotoError", "PhotoErrorReason", "PhotoLimits", "decode_photo"]

PhotoErrorReason = Literal["not_an_image", "truncated", "too_large", "too_small", "unreadable"]
# What a photo can come in. Pillow opens many more (EPS runs Ghostscript, PDF, FITS ...).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")


class PhotoError(ValueError):
    """A photo that cannot be used; `reason` is a stable code."""

    def __init__(self, reason: PhotoErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason: PhotoErrorReason = reason

    def __reduce__(self) -> tuple[type[PhotoError], tuple[PhotoErrorReason, str]]:
        # Exceptions with two arguments do not survive pickling between workers on their own.
        return type(self), (self.reason, str(self))


@dataclass(frozen=True, slots=True)
class PhotoLimits:
    """What is accepted.

    Attributes:
        max_pixels: width times height, checked before a pixel is decoded (decompression bombs).
        min_side: shortest side in pixels.
    """

    max_pixels: int = 50_000_000
    min_side: int = 32

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.min_side < 1:
            raise ValueError(
                f"max_pixels is {self.max_pixels} and min_side {self.min_side}, allowed: 1 or more"
            )


def decode_photo(data: bytes, limits: PhotoLimits | None = None) -> NDArray[np.uint8]:
    """The first frame as uint8 (H, W, 3) RGB, turned as its EXIF tag says.

    Transparency is laid on white; 16-bit grey is scaled to 8 bits.

    Args:
        data: the file.
        limits: `PhotoLimits()` by default.

    Raises:
        PhotoError: "not_an_image", "truncated", "too_large", "too_small", "unreadable".
    """
    limits = limits or PhotoLimits()
    Image.init()
    # AVIF is not in every build of Pillow.
    formats = [name for name in FORMATS if name in Image.OPEN]
    with warnings.catch_warnings():
        # Pillow's own bomb warning fires below our limit, and is no concern of the caller's.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError:
            raise PhotoError(
                "not_an_image", f"the {len(data)} bytes are no picture in a known format"
            ) from None
        except Image.DecompressionBombError:
            raise PhotoError(
                "too_large", f"the picture has more than {limits.max_pixels} pixels"
            ) from None
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise _decoding_error(error) from None
        _check_size(image.size, limits)
        try:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # a decoder fed with hostile bytes may raise anything
            raise _decoding_error(error) from None


def _check_size(size: tuple[int, int], limits: PhotoLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise PhotoError(
            "too_large",
            f"the picture has {width} x {height} pixels, at most {limits.max_pixels} are allowed",
        )
    if min(width, height) < limits.min_side:
        raise PhotoError(
            "too_small",
            f"the picture has {width} x {height} pixels, each side needs {limits.min_side}",
        )


def _decoding_error(error: Exception) -> PhotoError:
    text = str(error).lower()
    if "truncated" in text or "unexpected end" in text or "not enough" in text:
        return PhotoError("truncated", "the picture's file ends too early")
    return PhotoError("unreadable", f"the picture cannot be decoded ({type(error).__name__})")


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion clips 16-bit grey at 255 instead of scaling it.
        values = np.asarray(image, dtype=np.float64)
        top = 255.0 if values.max(initial=0) <= 255 else 65535.0
        grey = np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layered)
    return np.array(image.convert("RGB"), dtype=np.uint8)
