"""Photos as phones, cameras and archives leave them: formats, colours, EXIF, ends that are cut."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infinite_id.faces.photos import PhotoError, PhotoLimits, decode_photo

ASSETS = Path(__file__).parents[1] / "assets"
PERSON = Image.open(ASSETS / "person0_0.png").convert("RGB")
LYING = PERSON.transpose(Image.Transpose.ROTATE_90)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _far(picture: np.ndarray) -> float:
    return float(np.abs(picture.astype(int) - np.asarray(PERSON)).mean())


def test_a_heic_of_a_phone_is_upright() -> None:
    assert _far(decode_photo((ASSETS / "person0_0.heic").read_bytes())) < 3


def test_a_heic_without_its_package_names_it(tmp_path: Path) -> None:
    """In a process of its own: a format that was registered stays so."""
    script = (
        "import sys; sys.modules['pi_heif'] = None\n"
        "from infinite_id.faces.photos import decode_photo\n"
        f"decode_photo(open({str(ASSETS / 'person0_0.heic')!r}, 'rb').read())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "a HEIC picture needs the package pi-heif" in done.stderr


def _orientation(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = tag
    return exif


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("AVIF", {"quality": 95, "exif": _orientation(6)}),
        ("JPEG", {"quality": 98, "exif": _orientation(6)}),
        ("WEBP", {"lossless": True, "exif": _orientation(6)}),
        ("TIFF", {"exif": _orientation(6)}),
        ("MPO", {"quality": 98, "exif": _orientation(6), "save_all": True,
                 "append_images": [PERSON.rotate(180)]}),
    ],
)  # fmt: skip
def test_each_format_is_turned_by_its_tag(kind: str, options: dict) -> None:
    assert _far(decode_photo(_saved(LYING, kind, **options))) < 4


@pytest.mark.parametrize("kind", ["GIF", "DIB", "BMP"])
def test_formats_without_tags(kind: str) -> None:
    assert _far(decode_photo(_saved(PERSON, kind))) < 8  # GIF has 256 colours


ADOBE_RGB = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
"""Columns: XYZ of the primaries, adapted to D50 (Bradford)."""


def _profile(matrix: np.ndarray, gamma: float) -> bytes:
    """A minimal matrix/TRC display profile, ICC.1:2001-04."""

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"text\0\0\0\0test\0\0\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = [
        (b"desc", name),
        (b"cprt", text),
        (b"wtpt", xyz(np.array([0.9642, 1.0, 0.8249]))),
        *((name, xyz(matrix[:, n])) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))),
        *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")),
    ]
    offset, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, value in tags:
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", offset + len(body), len(value))
        body += value
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


def test_colours_are_brought_to_srgb() -> None:
    red = np.array([200, 60, 40])
    linear = np.where(red / 255 <= 0.04045, red / 255 / 12.92, ((red / 255 + 0.055) / 1.055) ** 2.4)
    adobe = np.linalg.solve(ADOBE_RGB, SRGB @ linear) ** (1 / 2.2)
    stored = Image.new("RGB", (40, 40), tuple(int(v) for v in np.rint(adobe * 255)))
    data = _saved(stored, "PNG", icc_profile=_profile(ADOBE_RGB, 2.2))
    picture = decode_photo(data)
    assert np.abs(np.asarray(stored)[0, 0].astype(int) - red).max() > 15
    assert np.abs(picture[0, 0].astype(int) - red).max() <= 3


@pytest.mark.parametrize("profile", [b"no profile at all", _profile(SRGB, 2.2)[:150]])
def test_a_broken_profile_refuses_nothing(profile: bytes) -> None:
    assert _far(decode_photo(_saved(PERSON, "PNG", icc_profile=profile))) == 0


def _phone_exif() -> bytes:
    exif = Image.Exif()
    exif[0x10F], exif[0x110], exif[0x112] = "Maker of phones", "Phone 7", 6
    exif[0x11A], exif[0x11B], exif[0x132] = 72.0, 72.0, "2026:11:29 12:00:00"
    inner = exif.get_ifd(0x8769)
    inner.update({0x829A: 0.01, 0x9204: -0.33, 0x9209: 16, 0x920A: 4.2, 0xA002: 64, 0xA003: 64})
    inner[0x9003] = "2026:11:29 12:00:00"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2)})
    return exif.tobytes()


def test_no_broken_exif_refuses_a_good_picture() -> None:
    """2,000 phone EXIFs, each with 1 to 8 bytes changed."""
    rng = np.random.default_rng(24)
    exif = _phone_exif()
    stored = _saved(LYING, "JPEG", quality=90)
    upright = 0
    for _ in range(2000):
        changed = bytearray(exif)
        for place in rng.integers(6, len(exif), rng.integers(1, 9)):  # behind "Exif"
            changed[place] = rng.integers(256)
        blob = bytes(changed)
        segment = b"\xff\xe1" + struct.pack(">H", len(blob) + 2) + blob
        picture = decode_photo(stored[:2] + segment + stored[2:])
        upright += _far(picture) < 6
    assert upright > 1400  # in the others the changed bytes hit the tag itself or the way to it


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_that_lacks_its_end_marker_is_used(options: dict) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    data = _saved(Image.fromarray(noise), "JPEG", quality=90, **options)
    assert np.array_equal(decode_photo(data[:-2]), decode_photo(data))
    for missing in (3, 40, 400, len(data) // 2):
        with pytest.raises(PhotoError, match="ends too early"):
            decode_photo(data[:-missing])


def test_the_limit_of_pixels_stands_in_the_message() -> None:
    huge = _saved(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(PhotoError, match="at most 5000 are allowed"):
        decode_photo(huge, PhotoLimits(max_pixels=5000))
