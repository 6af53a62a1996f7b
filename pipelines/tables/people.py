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
from pipelines.tables.schemas import PROVENANCE
from pipelines.tables.storage import Store

__all__ = [
    "IdentityStore",
    "identity_from_row",
    "provenance_of",
    "embedding_digest",
]


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

    Args:
        store: the run folder.
        most_bytes: of table files kept in memory.
    """

    def __init__(self, store: Store, most_bytes: int = 1 << 30) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._files: OrderedDict[str, pa.Table] = OrderedDict()
        self._where: dict[str, tuple[str, int]] = {}
        for name in store.names("embeddings", ".parquet"):
            ids = store.read_table(f"embeddings/{name}", ["identity_id"])["identity_id"]
            self._where.update({key: (name, row) for row, key in enumerate(ids.to_pylist())})

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
        if identity_id not in self._where:
            raise ValueError(f"identity {identity_id!r} has no embedding in {self._store.url}")
        name, row = self._where[identity_id]
        with self._lock:
            table = self._file(name)
        return table.slice(row, 1).to_pylist()[0]

    def _file(self, name: str) -> pa.Table:
        if name in self._files:
            self._files.move_to_end(name)
            return self._files[name]
        self._files[name] = self._store.read_table(f"embeddings/{name}")
        while len(self._files) > 1 and sum(t.nbytes for t in self._files.values()) > (
            self._most_bytes
        ):
            self._files.popitem(last=False)
        return self._files[name]


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
