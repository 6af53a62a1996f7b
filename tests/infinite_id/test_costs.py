"""Small files that a decoder would work on for minutes, or for ever."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infinite_id.faces.costs import file_parts, heif_pixels, jpeg_scans
from infinite_id.faces.photos import PhotoError, decode_photo

HEIC = Path(__file__).parents[1] / "assets" / "person0_0.heic"
SIDE = 64
# Bytes of its picture; its EXIF follows.
CODED = 1760
# (type, parts) of an item; numbers begin at 1.
Item = tuple[bytes, Sequence[int]]


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, body: bytes, version: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24) + body)


def contents(data: bytes) -> dict[bytes, bytes]:
    found, place = {}, 0
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        found[kind] = data[place + 8 : place + size]
        place += size
    return found


def heic(items: Sequence[Item], main: int | None = None) -> bytes:
    """A HEIC file of items of 64 x 64 px: tiles (hvc1), all of one coded picture, and what is made
    of others: iden, iovl (one over the other) or grid (side by side)."""
    real = contents(HEIC.read_bytes())
    hvcc = box(b"hvcC", contents(contents(contents(real[b"meta"][4:])[b"iprp"])[b"ipco"])[b"hvcC"])
    data, places = b"", []
    for kind, parts in items:
        side = max(1, int(len(parts) ** 0.5))
        one = {
            b"hvc1": real[b"mdat"][:CODED],
            b"iden": b"",
            b"iovl": bytes(10) + struct.pack(">HH", SIDE, SIDE) + bytes(4 * len(parts)),
            b"grid": bytes(2) + struct.pack(">BBHH", side - 1, side - 1, side * SIDE, side * SIDE),
        }[kind]
        places.append((len(data), len(one)))
        data += one
    count = struct.pack(">H", len(items))
    sizes = [SIDE * int(len(p) ** 0.5) if kind == b"grid" else SIDE for kind, p in items]
    known = sorted(set(sizes))
    properties = hvcc + b"".join(full(b"ispe", struct.pack(">II", one, one)) for one in known)
    of_items = b"".join(
        struct.pack(">HBBB", number, 2, 0x81 if kind == b"hvc1" else 1, 2 + known.index(size))
        for number, ((kind, _), size) in enumerate(zip(items, sizes, strict=True), 1)
    )
    infos = b"".join(
        full(b"infe", struct.pack(">HH4sB", number, 0, kind, 0), 2)
        for number, (kind, _) in enumerate(items, 1)
    )
    parts_of = b"".join(
        box(b"dimg", struct.pack(f">HH{len(parts)}H", number, len(parts), *parts))
        for number, (_, parts) in enumerate(items, 1)
        if parts
    )
    head = box(b"ftyp", b"heic\0\0\0\0mif1heic")

    def meta(begin: int) -> bytes:
        lines = (
            struct.pack(">HHHII", number, 0, 1, begin + place, length)
            for number, (place, length) in enumerate(places, 1)
        )
        return full(
            b"meta",
            full(b"hdlr", bytes(4) + b"pict" + bytes(13))
            + full(b"pitm", struct.pack(">H", main or len(items)))
            + full(b"iloc", b"\x44\0" + count + b"".join(lines))
            + full(b"iinf", count + infos)
            + full(b"iref", parts_of)
            + box(
                b"iprp",
                box(b"ipco", properties) + full(b"ipma", struct.pack(">I", len(items)) + of_items),
            ),
        )

    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", data)


def nested(levels: int, wide: int = 10) -> list[Item]:
    """So many pictures over each other, of which each is so many over each other, and so on."""
    items: list[Item] = [(b"hvc1", ())] * wide
    for _ in range(levels):
        before = range(len(items) - wide + 1, len(items) + 1)
        items += [(b"iovl", before)] * wide
    return items


def refused(data: bytes) -> tuple[str, str]:
    with pytest.raises(PhotoError) as raised:
        decode_photo(data)
    return raised.value.reason, str(raised.value)


TILES: list[Item] = [(b"hvc1", ())] * 4


def test_a_picture_of_tiles_is_decoded() -> None:
    file = heic([*TILES, (b"grid", (1, 2, 3, 4))])
    assert heif_pixels(file) == 2 * 128 * 128
    made, tile = decode_photo(file), decode_photo(heic(TILES[:1]))
    np.testing.assert_array_equal(made[:64, 64:], tile)
    assert made.shape == (128, 128, 3)
    assert tile.std() > 20


def test_pictures_of_pictures_of_pictures_are_refused_at_once() -> None:
    assert decode_photo(heic(nested(1))).shape == (SIDE, SIDE, 3)
    for levels in (5, 40):
        reason, said = refused(heic(nested(levels)))
        assert reason == "too_large"
        assert said.startswith("the picture is made of parts that have ")
        assert said.endswith(" pixels together, at most 200000000 are allowed")


CHAIN: list[Item] = [*((b"iden", (number,)) for number in range(2, 3000)), (b"hvc1", ())]
BROKEN = {
    "a circle": heic([(b"iden", (2,)), (b"iden", (1,))]),
    "a chain": heic(CHAIN),
    "a short box": box(b"ftyp", b"heic\0\0\0\0") + full(b"meta", struct.pack(">I4s", 3, b"iinf")),
    "an end too early": box(b"ftyp", b"heic\0\0\0\0") + full(b"meta", full(b"ipma", b"\0\0\0\1")),
    "boxes of megabytes": box(b"ftyp", b"heic\0\0\0\0")
    + full(b"meta", box(b"free", bytes(5 << 20))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_structure_that_ends_nowhere_is_refused(name: str) -> None:
    reason, said = refused(BROKEN[name])
    assert reason == "unreadable"
    assert said.startswith("the picture cannot be decoded: its ")


def pictures_of(*inside: bytes) -> bytes:
    return box(b"ftyp", b"heic\0\0\0\0") + full(b"meta", b"".join(inside))


def test_looking_at_a_file_costs_little() -> None:
    """Neither memory nor time beyond what its bytes may ask for."""
    deep = b""
    for _ in range(2000):
        deep = box(b"iprp", deep)
    chain = [(item, [item + 1]) for item in range(1, 450)] + [(450, [451] * 30_000)]
    references = b"".join(
        box(b"dimg", struct.pack(f">HH{len(parts)}H", whole, len(parts), *parts))
        for whole, parts in chain
    )
    many = pictures_of(full(b"iref", references), sizes_of(*range(1, 452)))
    tracemalloc.start()
    begin = time.process_time()
    assert heif_pixels(pictures_of(deep)) == 0
    assert heif_pixels(many) == (450 + 30_000) * 64 * 64
    spent, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * (len(many) + len(deep))
    assert spent < 1


def sizes_of(*items: int) -> bytes:
    area = full(b"ispe", struct.pack(">II", 64, 64))
    told = b"".join(struct.pack(">HBB", item, 1, 1) for item in items)
    return box(b"iprp", box(b"ipco", area) + full(b"ipma", struct.pack(">I", len(items)) + told))


def test_a_tone_map_beside_its_picture_is_not_drawn() -> None:
    kinds = b"".join(
        full(b"infe", struct.pack(">HH4s", item, 0, kind) + b"\0", 2)
        for item, kind in ((1, b"hvc1"), (2, b"hvc1"), (3, b"tmap"))
    )
    references = box(b"dimg", struct.pack(">HHHH", 3, 2, 1, 2))
    file = pictures_of(
        full(b"iinf", struct.pack(">H", 3) + kinds), full(b"iref", references), sizes_of(1, 2, 3)
    )
    assert heif_pixels(file) == 64 * 64


def progressive(side: int = 256) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", progressive=True, quality=90)
    return stream.getvalue()


def test_a_jpeg_of_many_scans_is_refused() -> None:
    honest = progressive()
    assert 5 < jpeg_scans(honest) < 20
    assert decode_photo(honest).shape == (256, 256, 3)
    last = honest[honest.rindex(b"\xff\xda") : -2]
    many = honest[:-2] + last * 1000 + honest[-2:]
    assert jpeg_scans(many) > 1000
    said = "the picture has more than 100 scans, which no camera writes"
    assert refused(many) == ("too_large", said)
    # What looks like a scan in a camera's own notes, or in a film behind the picture, is none.
    notes = honest[:2] + b"\xff\xe7\x03\xea" + b"\xff\xda\0\2" * 250 + honest[2:]
    assert decode_photo(notes + b"\xff\xda\0\2" * 1000).shape == (256, 256, 3)
    # Nor does a broken length hide one.
    assert jpeg_scans(b"\xff\xd8\xff\xe0") == 0


def saved(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (64, 64), 90).save(stream, kind, **options)
    return stream.getvalue()


# Files, and empty parts with the place where they go.
EMPTY = {
    "PNG": (saved("PNG"), b"\0\0\0\0teSt\x4d\xfb\x5a\xae", 33),
    "JPEG": (saved("JPEG"), b"\xff\xe7\0\2", 2),
    "GIF": (saved("GIF"), b"!\xfe\1x\0", -1),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_file_of_empty_parts_is_refused(kind: str) -> None:
    file, empty, place = EMPTY[kind]
    if kind == "GIF":
        place = file.index(b",", 13 + 3 * 2)
    few, many = (file[:place] + empty * count + file[place:] for count in (100, 60_000))
    assert 100 <= file_parts(few, 50_000) < 150
    assert decode_photo(few).shape == (64, 64, 3)
    said = "the picture's file has more than 50000 parts, which no camera writes"
    assert refused(many) == ("too_large", said)


def test_a_bmp_packed_by_run_lengths_is_refused() -> None:
    stream = io.BytesIO()
    Image.new("P", (64, 64)).save(stream, "BMP")
    data = bytearray(stream.getvalue())
    data[30:34] = struct.pack("<I", 1)
    assert refused(bytes(data)) == ("unreadable", "the picture is a BMP packed by run lengths")
