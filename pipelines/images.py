"""Encoded pictures: what the tables hold. Pillow only."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

__all__ = ["AI_GENERATED", "IMAGE_FORMATS", "decode_image", "encode_image"]

IMAGE_FORMATS = ("png", "webp", "jpeg")

AI_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC digital source type of a picture made by a trained model."""

_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{AI_GENERATED}"/></rdf:RDF></x:xmpmeta>'
)


def encode_image(image: NDArray[np.uint8], kind: str = "png", *, generated: bool = True) -> bytes:
    """A picture as bytes of a file.

    Args:
        image: uint8 (H, W, 3) RGB.
        kind: png and webp are lossless; jpeg has quality 95.
        generated: marks the file as AI-generated (IPTC digital source type in XMP).

    Raises:
        ValueError: unknown kind.
    """
    if kind not in IMAGE_FORMATS:
        raise ValueError(f"image format is {kind!r}, allowed: {', '.join(IMAGE_FORMATS)}")
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    xmp = _XMP.encode() if generated else b""
    if kind == "png":
        info = PngInfo()
        if generated:
            info.add_itxt("XML:com.adobe.xmp", _XMP)
        picture.save(buffer, "PNG", pnginfo=info, compress_level=4)
    elif kind == "webp":
        picture.save(buffer, "WEBP", lossless=True, method=2, xmp=xmp)
    else:
        picture.save(buffer, "JPEG", quality=95, xmp=xmp)
    return buffer.getvalue()


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB of a file that this pipeline wrote."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
