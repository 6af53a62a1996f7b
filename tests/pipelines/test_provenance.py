"""What a picture's own file says of it, and the invisible mark in its pixels."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from infinite_id.packages import package_file
from infinite_id.provenance import Provenance
from infinite_id.types import AI_GENERATED
from pipelines.stages.watermark import Watermark, check_watermark
from pipelines.tables.demo_people import PORTRAIT
from pipelines.tables.pictures import decode_image, encode_image

EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
MADE = Provenance("0123", "infinite_id", "infinite_id-ab", 'a "man" & <so>\x00', "blur", 7)


def described(data: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        xmp = picture.info.get("xmp") or picture.info["XML:com.adobe.xmp"].encode()
    return dict(ElementTree.fromstring(xmp)[0][0].attrib)  # noqa: S314 -- our own file


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_every_format_carries_how_it_was_made(kind):
    found = described(encode_image(np.zeros((8, 8, 3), np.uint8), kind, provenance=MADE))
    assert found[f"{EXT}DigitalSourceType"] == AI_GENERATED
    assert found[f"{EXT}AISystemUsed"] == "infinite-id-ray, infinite_id"
    assert found[f"{EXT}AISystemVersionUsed"] == "infinite_id-ab"
    prompt = 'a "man" & <so>\nseed: 7\nnegative: blur'
    assert found[f"{EXT}AIPromptInformation"] == prompt
    assert found["{http://purl.org/dc/elements/1.1/}identifier"] == "0123"


@pytest.mark.parametrize(("kind", "size"), [("png", 256), ("jpeg", 256), ("jpeg", 512)])
def test_a_watermark_is_read_back_and_not_seen(kind, size):
    with Image.open(package_file(PORTRAIT)) as photo:
        image = np.asarray(photo.convert("RGB").resize((size, size)))
    mark = Watermark("IFID")
    marked = mark.embed(image)
    error = np.mean((marked.astype(float) - image) ** 2)
    assert 10 * np.log10(255**2 / error) > 30
    assert mark.read(decode_image(encode_image(marked, kind)))
    assert not mark.read(image)


@pytest.mark.parametrize(
    ("text", "side", "message"),
    [
        ("", 256, "watermark is '', allowed: 1 to 8 ASCII"),
        ("ninechars", 256, "watermark is 'ninechars', allowed"),
        ("IFID", 64, "pictures are 64 x 64 px, allowed with a watermark: sides of 256 px"),
    ],
)
def test_a_watermark_that_does_not_fit_is_refused(text, side, message):
    with pytest.raises(ValueError, match=message):
        check_watermark(text, side, side)
