"""A run's pictures as a data set: large Parquet files or WebDataset shards, joined with scores.

A run commits one small file a unit, which is right for kills and wrong for readers. Export streams
the committed units, in their order, into files of a wanted size. File names and contents depend on
the run alone, so a second call writes what is missing and leaves what is there.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.schemas import SAMPLE_KEYS
from pipelines.storage import Store
from pipelines.units import committed_units, read_unit

__all__ = ["FORMATS", "PARTITIONS", "ExportedFile", "export_run"]

FORMATS = ("parquet", "webdataset")
PARTITIONS = ("method", "style")
_ROW_GROUP_BYTES = 16 << 20
# Requests run method by method and style by style, so few partitions are open at a time.
_MOST_OPEN = 4
_KEYS = [field.name for field in SAMPLE_KEYS]


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file: name below the output, rows, bytes, SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str


def export_run(
    run: Store,
    output: Store,
    *,
    format: str = "parquet",
    partition: Sequence[str] = (),
    file_bytes: int = 256 << 20,
    refused: bool = False,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> list[ExportedFile]:
    """Writes a run's scored pictures; `_export.json` lists the files when all are there.

    Of a synthesis the accepted pictures are written, or with `refused` the others, with the
    reason in a column of its own.

    Memory holds one row group (16 MB) of at most four partitions, whatever the run's size.

    Args:
        run: a run folder.
        output: where; any file system. Existing files of the same export stay.
        format: parquet (image columns and scores in one table) or webdataset (tar shards; each
            sample_id as picture, .json and .txt).
        partition: columns of `PARTITIONS`, as hive folders `method=.../style=...`.
        file_bytes: of pictures and columns, before compression, after which a file ends.
        refused: of a synthesis, the pictures that its gates refused.
        progress: told ("units", done, total).

    Raises:
        ValueError: unknown format or partition, a size below 1, no scored picture in the run, or
            an output that holds an export of other settings.
        StorageError: a place that cannot be read or written.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, allowed: {', '.join(FORMATS)}")
    for name in partition:
        if name not in PARTITIONS:
            raise ValueError(f"partition is {name!r}, allowed: {', '.join(PARTITIONS)}")
    if file_bytes < 1:
        raise ValueError(f"file size is {file_bytes} bytes, allowed: 1 or more")
    record = json.loads(run.read_bytes("run.json")) if run.exists("run.json") else {}
    synthesis = record.get("job") == "synthesis"
    if refused and not synthesis:
        raise ValueError(f"{run.url} is no synthesis, allowed with refused: a synthesis")
    units = sorted(committed_units(run, "scores"))
    if not units:
        raise ValueError(f"{run.url} holds no scored picture, allowed: a folder that a run wrote")
    settings = {
        "format": format, "partition": list(partition), "file_bytes": file_bytes,
        "units": len(units), "refused": refused, "run": record.get("digests"),
    }  # fmt: skip
    _check_same(output, settings)
    sinks = _Sinks(output, format, file_bytes)
    parts = _judged(run, refused=refused) if synthesis else (_joined(run, unit) for unit in units)
    for done, table in enumerate(parts, 1):
        for folder, part in _split(table, partition):
            sinks.write(folder, part)
        progress("units", done, len(units))
    files = sinks.close()
    record = {**settings, "rows": sum(f.rows for f in files), "files": [asdict(f) for f in files]}
    output.write_bytes("_export.json", json.dumps(record, indent=1).encode())
    return files


def _check_same(output: Store, settings: dict[str, Any]) -> None:
    name = "_export_settings.json"
    if output.exists(name):
        before = json.loads(output.read_bytes(name))
        for key, value in settings.items():
            if before.get(key) != value:
                raise ValueError(
                    f"output {output.url} holds an export with {key} {before.get(key)!r}, this "
                    f"one has {value!r}; allowed: another output"
                )
    output.write_bytes(name, json.dumps(settings).encode())


def _joined(run: Store, unit: int) -> pa.Table:
    """The pictures of a unit with their scores beside them, in the order of the plan."""
    images, scores = read_unit(run, "images", unit), read_unit(run, "scores", unit)
    if images is None or scores is None:
        raise ValueError(f"{run.url} lacks the pictures of unit {unit}, allowed: a whole run")
    found = pc.index_in(images["sample_id"], value_set=scores["sample_id"])
    aligned = scores.drop_columns(_KEYS).take(found)
    for name in aligned.column_names:
        images = images.append_column(name, aligned[name])
    return images


def _judged(run: Store, *, refused: bool) -> Iterator[pa.Table]:
    """The accepted (or refused) pictures of each unit of a synthesis, block by block of people."""
    for number in sorted(committed_units(run, "verdicts")):
        verdicts = read_unit(run, "verdicts", number, ["sample_id", "unit", "accepted", "reason"])
        if verdicts is None:
            continue
        for unit in pc.unique(verdicts["unit"]):
            mine = verdicts.filter(pc.equal(verdicts["unit"], unit))
            accepted = mine["accepted"]
            mine = mine.filter(pc.invert(accepted) if refused else accepted)
            table = _joined(run, unit.as_py())
            table = table.filter(pc.is_in(table["sample_id"], value_set=mine["sample_id"]))
            if refused:
                found = pc.index_in(table["sample_id"], value_set=mine["sample_id"])
                table = table.append_column("reason", mine["reason"].take(found))
            yield table


def _split(table: pa.Table, partition: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The parts of a table by partition folder, in the order in which they appear."""
    if not partition or table.num_rows == 0:
        yield "", table
        return
    rows = zip(*(table[name].to_pylist() for name in partition), strict=True)
    places: dict[tuple, list[int]] = {}
    for number, values in enumerate(rows):
        places.setdefault(values, []).append(number)
    for values, numbers in places.items():
        folder = "".join(f"{k}={v}/" for k, v in zip(partition, values, strict=True))
        # Hive readers take these columns from the path.
        yield folder, table.take(numbers).drop_columns(list(partition))


class _Writer(Protocol):
    def write(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


class _ParquetWriter:
    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._bytes = 0

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._bytes >= _ROW_GROUP_BYTES:
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
    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        # A stream: object stores cannot seek. Entries have no times: equal bytes every time.
        self._tar = tarfile.open(  # noqa: SIM115 -- closed by close()
            fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT
        )

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
    """Passes writes on and hashes them; what the writers need of a file."""

    def __init__(self, file: Any) -> None:
        self._file, self.sha256, self.size = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Writes all of it."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self.sha256.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes so far."""
        return self.size


class _OpenFile:
    """A file under way; where it is there already, rows are only counted."""

    def __init__(self, store: Store, name: str, kind: str, schema: pa.Schema) -> None:
        self.name, self.rows, self.nbytes = name, 0, 0
        self._store = store
        self._there = store.exists(name)
        if not self._there:
            self._writing = store.writing(name)
            self._file = _HashingFile(self._writing.__enter__())
            make = _ParquetWriter if kind == "parquet" else _TarWriter
            self._writer: _Writer = make(self._file, schema)  # type: ignore[arg-type]

    def write(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        self.nbytes += table.nbytes
        if not self._there:
            self._writer.write(table)

    def close(self) -> ExportedFile:
        if self._there:
            data = self._store.read_bytes(self.name)
            return ExportedFile(self.name, self.rows, len(data), hashlib.sha256(data).hexdigest())
        self._writer.close()
        self._writing.__exit__(None, None, None)
        return ExportedFile(self.name, self.rows, self._file.size, self._file.sha256.hexdigest())

    def abandon(self, error: BaseException) -> None:
        if not self._there:
            self._writing.__exit__(type(error), error, error.__traceback__)


class _Sinks:
    """Files by partition folder; the one that waited longest is ended when too many are open."""

    def __init__(self, store: Store, kind: str, file_bytes: int) -> None:
        self._store, self._kind, self._file_bytes = store, kind, file_bytes
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._done: list[ExportedFile] = []

    def write(self, folder: str, table: pa.Table) -> None:
        """Rows of one partition."""
        if table.num_rows == 0:
            return
        try:
            if folder not in self._open:
                self._open[folder] = self._start(folder, table.schema)
            self._open.move_to_end(folder)
            self._open[folder].write(table)
            if self._open[folder].nbytes >= self._file_bytes:
                self._end(folder)
            elif len(self._open) > _MOST_OPEN:
                self._end(next(iter(self._open)))
        except BaseException as error:
            for file in self._open.values():
                file.abandon(error)
            raise

    def close(self) -> list[ExportedFile]:
        """Ends all files."""
        for folder in list(self._open):
            self._end(folder)
        return sorted(self._done, key=lambda file: file.name)

    def _start(self, folder: str, schema: pa.Schema) -> _OpenFile:
        number = self._numbers.get(folder, 0)
        self._numbers[folder] = number + 1
        base = "part-{:06d}.parquet" if self._kind == "parquet" else "shard-{:06d}.tar"
        return _OpenFile(self._store, folder + base.format(number), self._kind, schema)

    def _end(self, folder: str) -> None:
        self._done.append(self._open.pop(folder).close())
