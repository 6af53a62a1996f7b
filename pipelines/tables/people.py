"""Embedded people, looked up by key with a bounded cache.

Identity tokens are some 650 KB a person at SDXL size, so requests carry keys and each actor reads
the people of its batch from the `embeddings` table, keeping the last few files in memory.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from infinite_id.types import Identity, IdentityEmbedding
from pipelines.tables.pictures import decode_image
from pipelines.tables.schemas import EMBEDDINGS, PROVENANCE
from pipelines.tables.storage import Store

__all__ = [
    "IdentityStore",
    "identity_from_row",
    "provenance_of",
    "embedding_digest",
    "first_warnings",
    "people_notes",
    "write_index",
]

_FOLDER = "embeddings"
_INDEX = "manifests/embedded.parquet"
_MOST_NOTES = 20


def identity_from_row(row: dict) -> Identity:
    """One `embeddings` row as the record that generators take."""
    shape = (row["clip_tokens"], row["clip_width"])
    return Identity(
        identity_id=row["identity_id"],
        images=tuple(decode_image(data) for data in row["aligned"]),
        embedding=IdentityEmbedding(
            face=np.asarray(row["face"], dtype=np.float32),
            clip=np.frombuffer(row["clip"], dtype="<f2").reshape(shape),
            revision=row["revision"],
        ),
        class_word=row["class_word"] or "person",
    )


class IdentityStore:
    """People of a run by identity_id; several threads may ask.

    Opening it reads nothing. The first question reads the index of people, which the driver writes
    when all are embedded (`write_index`), and each question the files of those asked for: a run of
    a million people has more than a hundred thousand.

    Args:
        store: the run folder.
        most_bytes: of table files kept in memory.
    """

    def __init__(self, store: Store, most_bytes: int = 1 << 30) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._files: OrderedDict[str, tuple[pa.Table, dict[str, int]]] = OrderedDict()
        self._bytes = 0
        self._where: dict[str, str] | None = None

    def get(self, identity_ids: Iterable[str]) -> dict[str, Identity]:
        """The people of those keys.

        Raises:
            ValueError: a key that has no embedding.
        """
        found = {}
        for key in dict.fromkeys(identity_ids):
            found[key] = identity_from_row(self.row(key))
        return found

    def row(self, identity_id: str) -> dict:
        """The `embeddings` row of one person."""
        with self._lock:
            if self._where is None:
                self._where = _index(self._store)
            name = self._where.get(identity_id)
            if name is None:
                raise ValueError(f"identity {identity_id!r} has no embedding in {self._store.url}")
            table, rows = self._file(name)
        return table.slice(rows[identity_id], 1).to_pylist()[0]

    def _file(self, name: str) -> tuple[pa.Table, dict[str, int]]:
        if name in self._files:
            self._files.move_to_end(name)
            return self._files[name]
        table = self._store.read_table(f"{_FOLDER}/{name}")
        rows = {key: row for row, key in enumerate(table["identity_id"].to_pylist())}
        self._files[name] = table, rows
        self._bytes += table.nbytes
        while len(self._files) > 1 and self._bytes > self._most_bytes:
            _, (dropped, _) = self._files.popitem(last=False)
            self._bytes -= dropped.nbytes
        return self._files[name]


def write_index(store: Store, people: pa.Table) -> None:
    """Writes in which file of `embeddings` each person is, and what is to be told of them.

    Args:
        store: the run folder.
        people: `identity_id` and `warning`, and `file` as `Store.read_folder` names it.
    """
    store.write_table(_INDEX, people.select(["identity_id", "file", "warning"]))


def people_notes(store: Store) -> list[str]:
    """Sentences on people whose photos do not agree; of more than a few the rest is counted."""
    warnings = store.read_table(_INDEX, ["warning"])["warning"].drop_null().to_pylist()
    return first_warnings(warnings, "embeddings.warning")


def first_warnings(warnings: list[str], where: str) -> list[str]:
    """The first sentences on people whose photos do not agree, and how many more are `where`."""
    more = len(warnings) - _MOST_NOTES
    if more <= 0:
        return warnings
    return [*warnings[:_MOST_NOTES], f"the photos of {more} more people do not agree: {where}"]


def _index(store: Store) -> dict[str, str]:
    if store.exists(_INDEX):
        people = store.read_table(_INDEX)
    else:  # of a run whose people are still being embedded
        people = store.read_folder(_FOLDER, EMBEDDINGS, ["identity_id"], name_files=True)
    names = people["file"].combine_chunks().dictionary_encode()
    files = names.dictionary.to_pylist()
    numbers = names.indices.to_pylist()
    keys = people["identity_id"].to_pylist()
    return {key: files[number] for key, number in zip(keys, numbers, strict=True)}


def embedding_digest(embedding: IdentityEmbedding) -> str:
    """32 hex digits of the face vector (float32), the CLIP tokens (float16) and the revision."""
    digest = hashlib.blake2b(embedding.face.astype("<f4").tobytes(), digest_size=16)
    digest.update(np.ascontiguousarray(embedding.clip, dtype="<f2").tobytes())
    digest.update(embedding.revision.encode())
    return digest.hexdigest()


def provenance_of(people: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """What travels to a picture of these people, `PROVENANCE` by column.

    Of a mix it is what holds for all of them, else what holds for each by name: nobody's "no" is
    hidden behind another one's "yes".

    Args:
        people: their `embeddings` rows, one or more.
    """
    found: dict[str, str | None] = {}
    for name in PROVENANCE:
        values = [person[name] for person in people]
        if len(set(values)) == 1:
            found[name] = values[0]
        elif name == "class_word":
            found[name] = "person"
        else:
            found[name] = "; ".join(
                f"{person['identity_id']}: {person[name] or 'not given'}" for person in people
            )
    return found
