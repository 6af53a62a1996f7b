"""What a file of few bytes may cost its decoder beyond the pixels that it says it has.

A progressive JPEG may go over all of its pixels in thousands of scans. A HEIC picture may be put
together from others, which are put together from others: nine files in a file, a billion pictures
to decode. Any file may hold millions of empty parts, which Pillow goes through one by one. None is
a photo, and a decoder that has begun cannot be stopped.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator

__all__ = ["file_parts", "heif_pixels", "jpeg_scans"]

# Markers but for stuffed zeros, restarts and fill bytes.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_ALONE = (0x01, 0xD8)
_SCAN, _END = 0xDA, 0xD9
# Of a picture of a thousand tiles it has some ten thousand.
_LARGEST_META = 4 << 20


def jpeg_scans(data: bytes) -> int:
    """Scans of the first picture of a JPEG."""
    return sum(marker == _SCAN for marker in _jpeg_markers(data))


def file_parts(data: bytes, most: int) -> int:
    """Parts of a JPEG, PNG or GIF that are gone through before its pixels: segments, chunks, or
    blocks; the count ends beyond `most`. 0 of other files."""
    found: Iterator[int]
    if data.startswith(b"\xff\xd8"):
        found = _jpeg_markers(data)
    elif data.startswith(b"\x89PNG"):
        found = _png_chunks(data)
    elif data.startswith(b"GIF8"):
        found = _gif_blocks(data)
    else:
        return 0
    return sum(1 for _ in itertools.islice(found, most + 1))


def _jpeg_markers(data: bytes) -> Iterator[int]:
    place = 2
    while (found := _MARKER.search(data, place)) is not None:
        marker = found[1][0]
        yield marker
        if marker == _END:
            return
        # The length of a segment counts itself.
        length = int.from_bytes(data[found.end() : found.end() + 2]) if marker not in _ALONE else 0
        place = found.end() + length


def _png_chunks(data: bytes) -> Iterator[int]:
    place = 8
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        yield length
        place += 12 + length


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Of extensions before the first picture."""
    place = 13 + (3 << (data[10] & 7) + 1 if data[10:11] and data[10] & 0x80 else 0)
    while data[place : place + 1] == b"!":
        place += 2
        while data[place : place + 1] not in (b"", b"\0"):
            yield data[place]
            place += 1 + data[place]
        place += 1


def heif_pixels(data: bytes) -> int:
    """Pixels that are decoded for a picture of a HEIF file, those of its parts included, each as
    often as a part is used: for the one with the most. 0 where there is none.

    Raises:
        ValueError: its structure is broken, or nobody could decode it.
    """
    try:
        found = _Items(data)
        drawn = (item for item in found.areas if item not in found.undrawn)
        return max((found.pixels(item) for item in drawn), default=0)
    except RecursionError:
        raise ValueError("its pictures are parts of parts without end") from None
    except (struct.error, IndexError) as error:
        raise ValueError(f"its boxes are broken ({type(error).__name__})") from None


class _Items:
    """Pictures of a file by their numbers: pixels, and of which others each is made (ISO 23008-12).

    What stands there twice is taken with all of its parts, and the larger size: decoders differ.

    Attributes:
        areas: pixels of each picture itself.
        undrawn: tone maps of a picture and its gain map, which stand beside the picture itself.
    """

    def __init__(self, data: bytes) -> None:
        self.areas: dict[int, int] = {}
        self.undrawn: set[int] = set()
        self._sizes: list[int | None] = []
        self._parts: dict[int, Counter[int]] = defaultdict(Counter)
        self._known: dict[int, int] = {}
        self._open: set[int] = set()
        # A view, so that boxes in boxes copy nothing.
        metas = [body for kind, body in _boxes(memoryview(data)) if kind == b"meta"]
        if (size := sum(map(len, metas))) > _LARGEST_META:
            raise ValueError(f"its boxes have {size} bytes")
        for body in metas:
            self._read(body[4:])

    def _read(self, data: memoryview) -> None:
        for kind, body in _boxes(data):
            if kind == b"iref":
                self._read_parts(body[4:], "I" if body[0] else "H")
            elif kind == b"iinf":
                self._read_kinds(body[6 if body[0] == 0 else 8 :])
            # One level alone: a box in itself, and so on, would have no end.
            for inner, content in _boxes(body) if kind == b"iprp" else [(kind, body)]:
                if inner == b"ipco":
                    self._sizes = [_area(*one) for one in _boxes(content)]
                elif inner == b"ipma":
                    self._read_sizes(content)

    def _read_kinds(self, data: memoryview) -> None:
        for kind, body in _boxes(data):
            if kind == b"infe" and body[0] >= 2:
                item, _, what = struct.unpack_from(">HH4s" if body[0] == 2 else ">IH4s", body, 4)
                if what == b"tmap":
                    self.undrawn.add(item)

    def _read_parts(self, data: memoryview, number: str) -> None:
        width = struct.calcsize(number)
        for kind, body in _boxes(data):
            whole, count = struct.unpack_from(f">{number}H", body)
            parts = struct.unpack_from(f">{count}{number}", body, width + 2)
            if kind == b"dimg":
                self._parts[whole].update(parts)
            elif kind == b"auxl":
                # Of a picture's transparency, among others.
                for master in parts:
                    self._parts[master][whole] += 1

    def _read_sizes(self, data: memoryview) -> None:
        number, wide = (">I" if data[0] else ">H"), bool(data[3] & 1)
        (count,) = struct.unpack_from(">I", data, 4)
        place = 8
        for _ in range(count):
            (item,) = struct.unpack_from(number, data, place)
            place += struct.calcsize(number)
            for _ in range(data[place]):
                at = place + 1
                index = struct.unpack_from(">H", data, at)[0] & 0x7FFF if wide else data[at] & 0x7F
                place += 2 if wide else 1
                area = self._sizes[index - 1] if index else None
                if area is not None:
                    self.areas[item] = max(area, self.areas.get(item, 0))
            place += 1

    def pixels(self, item: int) -> int:
        """Of a picture and of all that it is made of."""
        if item in self._known:
            return self._known[item]
        if item in self._open:
            raise ValueError("its pictures are parts of themselves")
        self._open.add(item)
        parts = self._parts.get(item, Counter())
        own = self.areas.get(item) or max(self.areas.values())
        self._known[item] = own + sum(times * self.pixels(one) for one, times in parts.items())
        self._open.discard(item)
        return self._known[item]


def _area(kind: bytes, body: memoryview) -> int | None:
    if kind != b"ispe":
        return None
    width, height = struct.unpack_from(">II", body, 4)
    return int(width * height)


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each box, one after the other."""
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        begin = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, place + 8)
            begin = 16
        end = len(data) if size == 0 else place + size
        if size and size < begin:
            raise struct.error("a box is shorter than its head")
        yield kind, data[place + begin : end]
        place = end
