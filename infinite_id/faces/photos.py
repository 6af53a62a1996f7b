"""Bytes of a photo from anywhere -> uint8 RGB, or one sentence on why not."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from infinite_id.faces.costs import file_parts, heif_pixels, jpeg_scans

__all__ = [
    "PhotoError",
    "PhotoErrorReason",
    "PhotoLimits",
    "decode_alpha",
    "decode_photo",
    "photo_pixels",
]

PhotoErrorReason = Literal["not_an_image", "truncated", "too_large", "too_small", "unreadable"]
# What a photo can come in. Pillow opens many more (EPS runs Ghostscript, PDF, FITS ...).
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "HEIF")
# Pillow itself refuses more than twice its `MAX_IMAGE_PIXELS`, a global that is left alone.
PILLOW_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**62)
# Filters of warnings belong to the process: two threads that save and restore them at the same
# time can leave one's filter behind for good.
_OPENING = threading.Lock()
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Bits of a scan that never was: a picture that lacks some is changed by one or the other.
_MORE_BITS = (b"", b"\x55" * 1000, b"\xaa" * 1000)
_ROWS = 512
# Cameras write one or some ten; 100 of a picture of 50 megapixels take a second.
_MOST_SCANS = 100
# A PNG of 50 megapixels in chunks of 8 KiB has some ten thousand.
_MOST_PARTS = 50_000
# A picture and its tiles, of which those at the edges go beyond it.
_TILES = 4
_MODES_OF_PROFILES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


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
        max_pixels: width times height, checked before a pixel is decoded (decompression bombs);
            at most 178,956,970, where Pillow's own limit lies. The tiles of a HEIC picture may
            have four times as many together.
        min_side: shortest side in pixels.

    Raises:
        ValueError: a limit out of its range.
    """

    max_pixels: int = 50_000_000
    min_side: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= PILLOW_PIXELS:
            raise ValueError(f"max_pixels is {self.max_pixels}, allowed: 1 to {PILLOW_PIXELS}")
        if self.min_side < 1:
            raise ValueError(f"min_side is {self.min_side}, allowed: 1 or more")


def decode_photo(data: bytes, limits: PhotoLimits | None = None) -> NDArray[np.uint8]:
    """The first frame as uint8 (H, W, 3) RGB in sRGB, turned as its EXIF tag says.

    Transparency is laid on white; 16-bit grey is scaled to 8 bits. Of EXIF only the orientation is
    read, and whatever else is broken there does not matter. A JPEG that lacks no more than its end
    marker is used. Safe in several threads.

    Args:
        data: the file: JPEG (MPO), PNG, WebP, TIFF, BMP, GIF, AVIF or HEIC.
        limits: `PhotoLimits()` by default.

    Raises:
        PhotoError: "not_an_image", "truncated", "too_large", "too_small", "unreadable".
    """
    limits = limits or PhotoLimits()
    _check_parts(data, limits)
    image = _open(data, limits)
    _check_size(image.size, limits)
    _check_cost(image, data)
    try:
        try:
            image.load()
        except OSError:
            if not _lacks_the_end_alone(data):
                raise
            image = _open(data + _JPEG_END, limits)
            image.load()
        return _upright(image)
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise _decoding_error(error) from None


def decode_alpha(data: bytes, limits: PhotoLimits | None = None) -> NDArray[np.uint8]:
    """The opacity of the first frame, uint8 (H, W), 0 where it is transparent, upright.

    Args:
        data: the file, as of `decode_photo`.
        limits: `PhotoLimits()` by default.

    Raises:
        PhotoError: as `decode_photo`; "unreadable", it has no transparency.
    """
    limits = limits or PhotoLimits()
    _check_parts(data, limits)
    image = _open(data, limits)
    _check_size(image.size, limits)
    _check_cost(image, data)
    try:
        image.load()
        shown = image.has_transparency_data
        alpha = image.convert("RGBA").getchannel("A") if shown else None
    except Exception as error:
        raise _decoding_error(error) from None
    if alpha is None:
        raise PhotoError("unreadable", "the picture has no transparency")
    turn = _TURNS.get(_orientation(image))
    return np.asarray(alpha if turn is None else alpha.transpose(turn))


def photo_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """As `decode_photo`, of a picture that Pillow has opened.

    Raises:
        PhotoError: "truncated", "too_large", "too_small", "unreadable".
    """
    _check_size(image.size, PhotoLimits())
    try:
        return _upright(image)
    except Exception as error:
        raise _decoding_error(error) from None


def _upright(image: Image.Image) -> NDArray[np.uint8]:
    turn = _TURNS.get(_orientation(image))
    image = _in_srgb(image)
    return _to_rgb(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """Of EXIF or XMP; 1, upright, where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return int(value)
    except Exception:  # any tag beside it may be broken in any way
        return 1


def _lacks_the_end_alone(data: bytes) -> bool:
    """Whether a JPEG without an end marker has all rows: then bits after them change nothing."""
    if not data.startswith(_JPEG_BEGIN):
        return False
    pictures = (
        Image.open(io.BytesIO(data + more + _JPEG_END), formats=["JPEG"]).tobytes()
        for more in _MORE_BITS
    )
    first = next(pictures)
    return all(picture == first for picture in pictures)


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture with its colours in sRGB; as it is where it has no profile that fits its mode."""
    profile = image.info.get("icc_profile")
    if (
        not profile
        or b"sRGB" in profile
        or _MODES_OF_PROFILES.get(profile[16:20].decode("latin-1")) != image.mode
    ):
        return image
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            image, given, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (
        ImageCms.PyCMSError,
        OSError,
        ValueError,
    ):  # broken: it says nothing
        return image
    return image if converted is None else converted


def _register_heif() -> None:
    try:
        import pi_heif
    except ImportError:  # told where a photo needs it
        return
    pi_heif.register_heif_opener(thumbnails=False)


def _open(data: bytes, limits: PhotoLimits) -> Image.Image:
    """The picture with its header read and no pixel decoded."""
    Image.init()
    if "HEIF" not in Image.OPEN:
        _register_heif()
    # AVIF is not in every build of Pillow.
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with _OPENING, warnings.catch_warnings():
            # Between 1 and 2 times its limit Pillow only warns, ours is checked next; and it warns
            # of broken EXIF.
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and "HEIF" not in formats:
            raise PhotoError(
                "not_an_image", "a HEIC picture needs the package pi-heif, which is not installed"
            ) from None
        raise PhotoError(
            "not_an_image", f"the {len(data)} bytes are no picture in a known format"
        ) from None
    except Image.DecompressionBombError:
        raise PhotoError(
            "too_large",
            f"the picture has more than {PILLOW_PIXELS} pixels, at most {limits.max_pixels} are "
            "allowed",
        ) from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        if data[:4] == b"RIFF" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
            raise _decoding_error(OSError("truncated")) from None
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


def _check_parts(data: bytes, limits: PhotoLimits) -> None:
    """Refuses a picture of too many parts; before it is opened, which looks at all of them."""
    if file_parts(data, _MOST_PARTS) > _MOST_PARTS:
        message = f"the picture's file has more than {_MOST_PARTS} parts, which no camera writes"
        raise PhotoError("too_large", message)
    if data[4:8] != b"ftyp":
        return
    try:
        pixels = heif_pixels(data)
    except ValueError as error:
        raise PhotoError("unreadable", f"the picture cannot be decoded: {error}") from None
    if pixels > _TILES * limits.max_pixels:
        raise PhotoError(
            "too_large",
            f"the picture is made of parts that have {pixels} pixels together, at most "
            f"{_TILES * limits.max_pixels} are allowed",
        )


def _check_cost(image: Image.Image, data: bytes) -> None:
    """Refuses what a decoder would work on for minutes; see `infinite_id.faces.costs`."""
    if image.format in ("JPEG", "MPO") and jpeg_scans(data) > _MOST_SCANS:
        message = f"the picture has more than {_MOST_SCANS} scans, which no camera writes"
        raise PhotoError("too_large", message)
    if any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ())):
        raise PhotoError("unreadable", "the picture is a BMP packed by run lengths")


def _decoding_error(error: Exception) -> PhotoError:
    text = str(error).lower()
    if "truncated" in text or "unexpected end" in text or "not enough" in text:
        return PhotoError("truncated", "the picture's file ends too early")
    return PhotoError("unreadable", f"the picture cannot be decoded ({type(error).__name__})")


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Some rows at a time: whole pictures of some tens of megapixels would take a gigabyte here."""
    white = _white(image)
    whole = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):
        below = min(top + _ROWS, image.height)
        whole[top:below] = _rows_in_rgb(image.crop((0, top, image.width, below)), white)
    return whole


def _rows_in_rgb(image: Image.Image, white: float | None) -> NDArray[np.uint8]:
    if white is not None:
        # Pillow's own conversion clips these at 255 instead of scaling them.
        values = np.asarray(image, dtype=np.float64)
        grey = np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        background = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, layered)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _white(image: Image.Image) -> float | None:
    """The value of white where grey has more than 8 bits: 65535 of 16-bit modes, of the wider ones
    the least that holds all; else None."""
    if image.mode.startswith("I;16"):
        return 65535.0
    if image.mode not in ("I", "F"):
        return None
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    _, top = cast(tuple[float, float], image.getextrema())
    return next((white for white in whites if top <= white), whites[-1])
