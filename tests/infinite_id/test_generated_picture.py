"""The mark of AI origin in pictures that somebody saves by hand."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from infinite_id.interface.picture import GeneratedPicture
from infinite_id.provenance import Provenance
from infinite_id.types import AI_GENERATED
from pipelines.tables.pictures import encode_image

EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
HOW = Provenance(None, "infinite_id", "pocket-1", "a man", "blur", 7)
PIXELS = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
KINDS = ["png", "jpg", "webp", "avif"]


@pytest.fixture
def picture() -> GeneratedPicture:
    return GeneratedPicture.of(PIXELS, HOW)


def written(picture: Image.Image, kind: str = "PNG", **values: Any) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **values)
    made = Image.open(buffer)
    made.load()
    return made


def mark(made: Image.Image) -> dict[str, str]:
    xmp = made.info.get("xmp")
    return dict(ElementTree.fromstring(xmp)[0][0].attrib) if xmp else {}  # noqa: S314 -- our own


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_picture_says_that_a_model_made_it(
    picture: GeneratedPicture, kind: str, tmp_path: Path
) -> None:
    for name in (tmp_path / f"ada.{kind}", str(tmp_path / f"other.{kind.upper()}")):
        picture.save(name)
        with Image.open(name) as made:
            made.load()
            found = mark(made)
        assert found[f"{EXT}DigitalSourceType"] == AI_GENERATED
        assert found[f"{EXT}AISystemUsed"] == "infinite-id-ray, infinite_id"
        assert found[f"{EXT}AISystemVersionUsed"] == "pocket-1"
        assert found[f"{EXT}AIPromptInformation"] == "a man\nseed: 7\nnegative: blur"
        assert made.size == (16, 12)


def test_it_is_the_mark_of_the_pipelines_files(picture: GeneratedPicture) -> None:
    own = Image.open(io.BytesIO(encode_image(PIXELS, provenance=HOW)))
    own.load()
    assert mark(written(picture)) == mark(own)
    np.testing.assert_array_equal(np.asarray(written(picture)), PIXELS)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.copy(),
        lambda p: p.convert("L"),
        lambda p: p.convert("P").convert("RGB"),
        lambda p: p.resize((5, 5)),
        lambda p: p.crop((1, 1, 5, 5)),
        lambda p: p.rotate(30, expand=True),
        lambda p: p.transpose(Image.Transpose.ROTATE_90),
        lambda p: ImageOps.fit(p, (4, 4)),
        copy.copy,
        copy.deepcopy,
        lambda p: pickle.loads(pickle.dumps(p)),  # noqa: S301 -- our own
        lambda p: (p.thumbnail((4, 4)), p)[1],
    ],
)
def test_what_is_made_of_it_keeps_the_mark(picture: GeneratedPicture, change: Any) -> None:
    assert mark(written(change(picture)))[f"{EXT}AISystemVersionUsed"] == "pocket-1"


def test_a_notebook_shows_it_with_the_mark(picture: GeneratedPicture) -> None:
    shown = Image.open(io.BytesIO(picture._repr_png_()))
    shown.load()
    assert mark(shown)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_callers_own_metadata_stands_beside_it(picture: GeneratedPicture, kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "my own"
    info = PngInfo()
    info.add_text("Title", "my own")
    made = written(picture, kind, exif=exif, pnginfo=info)
    assert made.getexif()[0x010E] == "my own"
    assert mark(made)
    if kind == "PNG":
        assert made.info["Title"] == "my own"
        assert len(info.chunks) == 1
        # Given again, it is still the caller's alone.
        assert mark(written(picture, kind, pnginfo=info))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_callers_own_xmp_stands_in_its_place(picture: GeneratedPicture, kind: str) -> None:
    assert written(picture, kind, xmp=b"<mine/>").info["xmp"] == b"<mine/>"
    assert not written(picture, kind, xmp=b"").info.get("xmp")
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<of-png/>")
    found = written(picture, kind, pnginfo=info).info["xmp"]
    assert found == b"<of-png/>" if kind == "PNG" else b"DigitalSourceType" in found


def test_a_format_that_holds_no_mark_says_so(picture: GeneratedPicture, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"format BMP holds no mark that a model made the pic"):
        picture.save(tmp_path / "ada.bmp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture.save(tmp_path / "ada.png")
        with pytest.raises(ValueError, match="unknown file extension"):
            picture.save(tmp_path / "ada.nothing")
