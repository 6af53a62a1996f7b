"""Encoded pictures: what the tables hold. Pillow only."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infinite_id.provenance import XMP_KEYWORD, Provenance, xmp_packet
from pipelines.tables.choices import IMAGE_FORMATS

__all__ = ["decode_image", "encode_image"]


def encode_image(
    image: NDArray[np.uint8],
    kind: str = "png",
    *,
    generated: bool = True,
    provenance: Provenance | None = None,
) -> bytes:
    """A picture as bytes of a file.

    Args:
        image: uint8 (H, W, 3) RGB.
        kind: png and webp are lossless; jpeg has quality 95.
        generated: marks the file as AI-generated (IPTC digital source type in XMP).
        provenance: of a generated picture, into the same XMP.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in IMAGE_FORMATS:
        raise ValueError(f"image format is {kind!r}, allowed: {', '.join(IMAGE_FORMATS)}")
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    xmp = xmp_packet(provenance) if generated else ""
    if kind == "png":
        info = PngInfo()
        if generated:
            info.add_itxt(XMP_KEYWORD, xmp)
        picture.save(buffer, "PNG", pnginfo=info, compress_level=4)
    elif kind == "webp":
        picture.save(buffer, "WEBP", lossless=True, method=2, xmp=xmp.encode())
    else:
        picture.save(buffer, "JPEG", quality=95, xmp=xmp.encode())
    return buffer.getvalue()


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB of a file that this pipeline wrote."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
