"""Encoded pictures: what the tables hold. Pillow only."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infinite_id.types import AI_GENERATED

__all__ = ["IMAGE_FORMATS", "Provenance", "decode_image", "encode_image"]

IMAGE_FORMATS = ("png", "webp", "jpeg")

_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    f'Iptc4xmpExt:DigitalSourceType="{AI_GENERATED}"%s/></rdf:RDF></x:xmpmeta>'
)
# XML 1.0 has no way to write these, not even escaped.
_NO_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a picture was made, for its file's metadata.

    Attributes:
        sample_id: names all that determines the picture.
        method: entry of METHODS.
        model_revision: of weights and method settings.
        prompt, negative_prompt: as the model read them.
        seed: of the initial noise.
    """

    sample_id: str
    method: str
    model_revision: str
    prompt: str
    negative_prompt: str
    seed: int

    def xmp(self) -> str:
        """Attributes of an rdf:Description: IPTC Photo Metadata 2025.1, Dublin Core, XMP basic."""
        told = f"{self.prompt}\nseed: {self.seed}"
        if self.negative_prompt:
            told += f"\nnegative: {self.negative_prompt}"
        values = {
            "Iptc4xmpExt:AISystemUsed": f"infinite-id-ray, {self.method}",
            "Iptc4xmpExt:AISystemVersionUsed": self.model_revision,
            "Iptc4xmpExt:AIPromptInformation": told,
            "xmp:CreatorTool": "infinite-id-ray",
            "dc:identifier": self.sample_id,
        }
        newline = {"\n": "&#10;"}
        return "".join(
            f" {name}={quoteattr(_NO_XML.sub('', value), newline)}"
            for name, value in values.items()
        )


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
    xmp = _XMP % (provenance.xmp() if provenance else "") if generated else ""
    if kind == "png":
        info = PngInfo()
        if generated:
            info.add_itxt("XML:com.adobe.xmp", xmp)
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
