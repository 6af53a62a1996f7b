"""Photos known by content, so that a set that was moved or linked is the same set.

Of a file on a disk its size and three pieces of it are read: any change of a compressed picture
changes what follows it. A store that names the content of its objects (ETag, MD5) is asked for
that alone; one that does not, for the time of the last change, else for the size. Where none can be
had, nothing is known, and nothing is claimed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from eval.places import guarding, place_of
from pipelines.tables.addresses import check_regular, read_uri
from pipelines.tables.photo_column import name_of
from pipelines.tables.storage import Store

__all__ = ["PHOTO_DIGESTS", "content_digest", "not_compared", "other_photo", "photo_digests"]

PHOTO_DIGESTS = pa.schema(
    [
        ("identity_id", pa.string()),
        ("photo", pa.string()),  # its address, null of bytes alone
        ("digest", pa.string()),  # KIND:HEX; null where the photo cannot be looked at
    ]
)
_PIECE = 1 << 16
_THREADS = 16
_PEOPLE_AT_ONCE = 256
_MD5 = ("md5Hash", "content_md5", "Content-MD5")
_ETAG = ("ETag", "etag")
_CHANGED = ("Last-Modified", "LastModified", "last_modified", "mtime", "modify")
_NO_CONTENT = ("changed:", "size:")
_VERSIONS = {"etag", "changed"}
"""Tell versions of one object apart; equal content elsewhere may have another one."""


def photo_digests(identities: pa.Table, options: Mapping[str, Any] | None = None) -> pa.Table:
    """Rows of `PHOTO_DIGESTS`, one a photo, in the order of the manifest.

    Args:
        identities: manifest table.
        options: of file systems by scheme.
    """
    parts = [PHOTO_DIGESTS.empty_table()]
    with ThreadPoolExecutor(_THREADS) as readers:
        for batch in _batches(identities):
            photos = [(row["identity_id"], one) for row in batch for one in row["photos"]]
            digests = readers.map(lambda pair: _digest(pair[1], options), photos)
            rows = [
                {"identity_id": key, "photo": name_of(photo), "digest": digest}
                for (key, photo), digest in zip(photos, digests, strict=True)
            ]
            parts.append(pa.Table.from_pylist(rows, schema=PHOTO_DIGESTS))
    return pa.concat_tables(parts)


def other_photo(before: pa.Table, now: pa.Table) -> str | None:
    """The first photo that differs, as a sentence; None where none is known to.

    Args:
        before, now: of `photo_digests`, of people who are the same.
    """
    ids = before["identity_id"].to_pylist(), now["identity_id"].to_pylist()
    if ids[0] != ids[1]:
        had, has = Counter(ids[0]), Counter(ids[1])
        key = next(key for key in {**had, **has} if had[key] != has[key])
        return f"{key!r} had {had[key]} photos, now {has[key]}"
    for key, name, old, new, kind in _pairs(before, now):
        if kind is not None and old != new and not _touched(kind, old, new):
            return f"{name or 'a photo'} of {key!r} is another photo than it was"
    return None


def not_compared(before: pa.Table, now: pa.Table) -> str | None:
    """How many photos were not compared, or by their size alone, as a sentence; None for none.

    Args:
        before, now: as of `other_photo`.
    """
    kinds = Counter(
        "touched" if _touched(kind, old, new) else kind
        for _, _, old, new, kind in _pairs(before, now)
    )
    told = [
        f"{kinds[kind]} of {kinds.total()} photos {said}"
        for kind, said in (
            (None, "could not be compared with those the run was begun with"),
            ("size", "were compared by their size alone"),
            ("touched", "have another time of change on their server and the same size"),
        )
        if kinds[kind]
    ]
    if not told:
        return None
    return (
        f"{', '.join(told)}: their stores tell no ETag, MD5 or time of change that can be compared "
        "(none, another kind, or another address)"
    )


def _touched(kind: str | None, old: str | None, new: str | None) -> bool:
    """Whether a photo of equal size has another time of change: a server may set that to now."""
    if kind != "changed" or old is None or new is None:
        return False
    return old != new and old.rpartition(", ")[2] == new.rpartition(", ")[2]


def _pairs(
    before: pa.Table, now: pa.Table
) -> Iterator[tuple[str, str | None, str | None, str | None, str | None]]:
    """(person, address now, digest before, digest now, what both are, None where they differ in
    kind) of each photo."""
    for key, was, name, old, new in zip(
        now["identity_id"].to_pylist(),
        before["photo"].to_pylist(),
        now["photo"].to_pylist(),
        before["digest"].to_pylist(),
        now["digest"].to_pylist(),
        strict=True,
    ):
        # Digests of two kinds cannot be compared: the set moved to a store, or from one.
        kinds = {one.partition(":")[0] if one else None for one in (old, new)}
        kind = kinds.pop() if len(kinds) == 1 else None
        yield key, name, old, new, None if kind in _VERSIONS and was != name else kind


def _batches(identities: pa.Table) -> Iterator[list[dict[str, Any]]]:
    wanted = identities.select(["identity_id", "photos"])
    for first in range(0, wanted.num_rows, _PEOPLE_AT_ONCE):
        yield wanted.slice(first, _PEOPLE_AT_ONCE).to_pylist()


def _digest(photo: Mapping[str, Any], options: Mapping[str, Any] | None) -> str | None:
    data, uri = photo["bytes"], photo["uri"]
    try:
        if data is None and uri.startswith("data:"):
            data = read_uri(uri)
        if data is not None:
            return _of_pieces(len(data), lambda start, end: data[start:end])
        place = place_of(uri, options)
        return _of_file(place.fs, place.path)
    except Exception:  # each file system has errors of its own; the actor says what is wrong
        return None


def content_digest(store: Store) -> str | None:
    """Of the Parquet file, or of all in the folder, at a place; wherever it lies. None where the
    store does not name the content of its objects.

    Raises:
        StorageError: it cannot be read.
    """
    with guarding("read", store.url):
        names = [store.root] if store.is_file() else sorted(store.fs.find(store.root))
        found = [_of_file(store.fs, name) for name in names if name.endswith(".parquet")]
    if not found or any(one is None or one.startswith(_NO_CONTENT) for one in found):
        return None
    return hashlib.blake2b("".join(map(str, found)).encode(), digest_size=16).hexdigest()


def _of_file(fs: Any, path: str) -> str | None:
    info = fs.info(path)
    for kind, keys in (("md5", _MD5), ("etag", _ETAG)):
        named = next((info[key] for key in keys if info.get(key)), None)
        if named is not None:
            return f"{kind}:{str(named).strip(chr(34))}"
    if "local" not in fs.protocol:
        size = info.get("size")
        changed = next((info[key] for key in _CHANGED if info.get(key)), None)
        if changed is not None:
            return f"changed:{changed}, {size} bytes"
        return None if size is None else f"size:{size}"
    check_regular(fs, path)
    with fs.open(path, "rb") as file:

        def piece(start: int, end: int) -> bytes:
            file.seek(start)
            return bytes(file.read(end - start))

        return _of_pieces(info["size"], piece)


def _of_pieces(size: int, piece: Any) -> str:
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    if size <= 3 * _PIECE:
        digest.update(piece(0, size))
    else:
        for start in (0, (size - _PIECE) // 2, size - _PIECE):
            digest.update(piece(start, start + _PIECE))
    return f"content:{digest.hexdigest()}"
