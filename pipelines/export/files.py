"""The files of an export: Parquet or tar, of a wanted size, each whole or not there.

An earlier call's file is passed over row by row and ends where it ended, so that whoever goes on
with an export that died writes what an undisturbed one would have.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import tarfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.tables.storage import Store

__all__ = ["ExportedFile", "Sinks"]

_ROW_GROUP_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20
# Requests run method by method and style by style, so few partitions are open at a time.
_MOST_OPEN = 4


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file: name below the output, rows, bytes, SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str


class _Writer(Protocol):
    @property
    def size(self) -> int: ...
    def write(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


class _ParquetWriter:
    def __init__(self, file: _HashingFile, schema: pa.Schema, file_bytes: int) -> None:
        self._file = file
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._group_bytes = min(_ROW_GROUP_BYTES, file_bytes)
        self._waiting: list[pa.Table] = []
        self._bytes = 0

    @property
    def size(self) -> int:
        return self._file.size

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._bytes >= self._group_bytes:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
            self._waiting, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


class _TarWriter:
    def __init__(self, file: _HashingFile, schema: pa.Schema, file_bytes: int) -> None:
        # A stream: object stores cannot seek. Entries have no times: equal bytes every time.
        self._tar = tarfile.open(  # noqa: SIM115 -- closed by close()
            fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT
        )

    @property
    def size(self) -> int:
        return self._tar.offset

    def write(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            key, image = row["sample_id"], row.pop("image")
            row = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            suffix = {"jpeg": "jpg"}.get(row["format"], row["format"])
            self._add(f"{key}.{suffix}", image)
            self._add(f"{key}.json", json.dumps(row, ensure_ascii=False).encode())
            self._add(f"{key}.txt", row["prompt"].encode())

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()


class _HashingFile(io.RawIOBase):
    """Passes writes on and hashes them; what the writers need of a file.

    Attributes:
        dropped: set where the file is given up: what is still written goes nowhere.
    """

    def __init__(self, file: Any) -> None:
        self._file, self.sha256, self.size = file, hashlib.sha256(), 0
        self.dropped = False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Writes all of it."""
        view = memoryview(data).cast("B")
        if not self.dropped:
            self._file.write(view)
        self.sha256.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes so far."""
        return self.size


class _OpenFile:
    """A file under way.

    Attributes:
        full: whether it has its size, so that it ends.
    """

    def __init__(
        self, store: Store, name: str, kind: str, schema: pa.Schema, file_bytes: int
    ) -> None:
        self._name, self._rows, self._file_bytes = name, 0, file_bytes
        self._writing = store.writing(name)
        self._file = _HashingFile(self._writing.__enter__())
        make = _ParquetWriter if kind == "parquet" else _TarWriter
        self._writer: _Writer = make(self._file, schema, file_bytes)

    @property
    def full(self) -> bool:
        return self._writer.size >= self._file_bytes

    def write(self, table: pa.Table) -> None:
        self._rows += table.num_rows
        self._writer.write(table)

    def close(self) -> ExportedFile:
        self._writer.close()
        self._writing.__exit__(None, None, None)
        return ExportedFile(self._name, self._rows, self._file.size, self._file.sha256.hexdigest())

    def abandon(self, error: BaseException) -> None:
        # A writer left open would write its end when it is collected, and say that it cannot.
        self._file.dropped = True
        with contextlib.suppress(Exception):
            self._writer.close()
        self._writing.__exit__(type(error), error, error.__traceback__)


class _FinishedFile:
    """A file that an earlier call wrote: its rows are passed over, and it ends where it ended."""

    def __init__(self, store: Store, name: str, kind: str) -> None:
        self._store, self._name, self._passed = store, name, 0
        self._rows = _parquet_rows(store, name) if kind == "parquet" else _tar_rows(store, name)

    @property
    def full(self) -> bool:
        return self._passed >= self._rows

    def write(self, table: pa.Table) -> None:
        self._passed += table.num_rows

    def close(self) -> ExportedFile:
        size, digest = 0, hashlib.sha256()
        with self._store.reading(self._name) as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
        return ExportedFile(self._name, self._rows, size, digest.hexdigest())

    def abandon(self, error: BaseException) -> None:
        """It stays."""


def _parquet_rows(store: Store, name: str) -> int:
    with store.parquet(name) as file:
        return file.metadata.num_rows


def _tar_rows(store: Store, name: str) -> int:
    with store.reading(name) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        return sum(entry.name.endswith(".txt") for entry in tar)


class Sinks:
    """Files by partition folder; the one that waited longest is ended when too many are open.

    Used as a context manager: an error inside leaves none of the files that are open.
    """

    def __init__(self, store: Store, kind: str, file_bytes: int) -> None:
        self._store, self._kind, self._file_bytes = store, kind, file_bytes
        self._open: OrderedDict[str, _OpenFile | _FinishedFile] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._done: list[ExportedFile] = []

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None:
            for file in self._open.values():
                file.abandon(error)

    def write(self, folder: str, table: pa.Table) -> None:
        """Rows of one partition."""
        if table.num_rows == 0:
            return
        if folder not in self._open:
            self._open[folder] = self._start(folder, table.schema)
        self._open.move_to_end(folder)
        self._open[folder].write(table)
        if self._open[folder].full:
            self._end(folder)
        elif len(self._open) > _MOST_OPEN:
            self._end(next(iter(self._open)))

    def close(self) -> list[ExportedFile]:
        """Ends all files."""
        for folder in list(self._open):
            self._end(folder)
        return sorted(self._done, key=lambda file: file.name)

    def _start(self, folder: str, schema: pa.Schema) -> _OpenFile | _FinishedFile:
        number = self._numbers.get(folder, 0)
        self._numbers[folder] = number + 1
        if number == 0:
            self._store.sweep([folder])
        base = "part-{:06d}.parquet" if self._kind == "parquet" else "shard-{:06d}.tar"
        name = folder + base.format(number)
        if self._store.exists(name):
            return _FinishedFile(self._store, name, self._kind)
        return _OpenFile(self._store, name, self._kind, schema, self._file_bytes)

    def _end(self, folder: str) -> None:
        self._done.append(self._open.pop(folder).close())
