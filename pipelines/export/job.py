"""A run's pictures as a data set: large Parquet files or WebDataset shards, joined with scores.

A run commits one small file a unit, which is right for kills and wrong for readers. Export streams
the committed units, in their order, into files of a wanted size. File names and contents depend on
the run alone, so a second call writes what is missing and leaves what is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.export.files import ExportedFile, Sinks
from pipelines.run.folder import check_same
from pipelines.run.lease import Lease
from pipelines.run.units import committed_units, read_unit
from pipelines.tables.schemas import IMAGES, SAMPLE_KEYS
from pipelines.tables.storage import Store
from pipelines.tables.table_checks import check_table

__all__ = ["FORMATS", "PARTITIONS", "ExportedFile", "export_run"]

FORMATS = ("parquet", "webdataset")
PARTITIONS = ("method", "style")
_SETTINGS = "_export_settings.json"
_LONGEST_NAME = 255  # bytes, of a folder on a disk
# Spark decodes an escape as one character: letters outside ASCII stand as they are.
_ESCAPED = re.compile(r"[^\w.~-]", re.ASCII)
_KEYS = [field.name for field in SAMPLE_KEYS]


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

    Memory holds one row group (16 MB) of at most four partitions, whatever the run's size. What
    an export left that was killed in the middle of a file is removed.

    Args:
        run: a run folder.
        output: where; any file system. Existing files of the same export stay.
        format: parquet (image columns and scores in one table) or webdataset (tar shards; each
            sample_id as picture, .json and .txt).
        partition: columns of `PARTITIONS`, as hive folders `method=.../style=...`.
        file_bytes: after which a file ends, as written; a row group (16 MB) more at most.
        refused: of a synthesis, the pictures that its gates refused.
        progress: told ("units", done, total).

    Raises:
        ValueError: unknown format or partition, a size below 1, no scored picture in the run, or
            an output that holds an export of other settings, or that another export writes to.
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
    _check_empty(output)
    check_same(output, _SETTINGS, "an export with", settings)
    parts = _judged(run, refused=refused) if synthesis else (_joined(run, unit) for unit in units)
    with Lease(output) as lease, Sinks(output, format, file_bytes) as sinks:
        output.sweep()
        _begin(output, settings)
        for done, table in enumerate(parts, 1):
            lease.check()
            for folder, part in _split(table, partition, keep=format != "parquet"):
                sinks.write(folder, part)
            progress("units", done, len(units))
        files = sinks.close()
        rows = sum(file.rows for file in files)
        record = {**settings, "rows": rows, "files": [asdict(file) for file in files]}
        output.write_bytes("_export.json", json.dumps(record, indent=1).encode())
    return files


def _check_empty(output: Store) -> None:
    """Refuses a folder that holds something and no export."""
    if output.is_file():
        raise ValueError(f"output {output.url} is a file, allowed: a folder")
    names = [name for name in output.holds() if name != "lease.json" and not name.startswith(".")]
    if names and _SETTINGS not in names:
        raise ValueError(
            f"output {output.url} holds {sorted(names)[0]!r} and no export, allowed: a new or "
            "empty folder, or one that an export was begun in"
        )


def _begin(output: Store, settings: dict[str, Any]) -> None:
    check_same(output, _SETTINGS, "an export with", settings)
    output.write_bytes(_SETTINGS, json.dumps(settings).encode())


def _joined(run: Store, unit: int) -> pa.Table:
    """The pictures of a unit with their scores beside them, in the order of the plan."""
    images, scores = read_unit(run, "images", unit), read_unit(run, "scores", unit)
    if images is None or scores is None:
        raise ValueError(f"{run.url} lacks the pictures of unit {unit}, allowed: a whole run")
    # A run begun by an earlier version has units without the columns that are new.
    images = check_table(images, IMAGES, f"{run.url}, images, unit {unit}")
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


def _split(
    table: pa.Table, partition: Sequence[str], *, keep: bool = False
) -> Iterator[tuple[str, pa.Table]]:
    """The parts of a table by partition folder, in the order in which they appear."""
    if not partition or table.num_rows == 0:
        yield "", table
        return
    rows = zip(*(table[name].to_pylist() for name in partition), strict=True)
    places: dict[tuple, list[int]] = {}
    for number, values in enumerate(rows):
        places.setdefault(values, []).append(number)
    for values, numbers in places.items():
        folder = "".join(f"{k}={_hive(v)}/" for k, v in zip(partition, values, strict=True))
        part = table.take(numbers)
        # Hive readers take these columns from the path, readers of shards do not.
        yield folder, part if keep else part.drop_columns(list(partition))


def _hive(value: str) -> str:
    """A partition's value as part of a folder's name, percent-encoded as Spark and DuckDB do, so
    that no value leads out of the output and each is read back as it was.

    Raises:
        ValueError: it is too long for a folder's name.
    """
    name = _ESCAPED.sub(lambda found: _escape(found[0]), value)
    if len(name.encode()) > _LONGEST_NAME - max(len(key) + 1 for key in PARTITIONS):
        raise ValueError(
            f"partition value {value[:40]!r}... has {len(name.encode())} bytes as a folder's "
            f"name, allowed: at most {_LONGEST_NAME}; export without --partition"
        )
    return name


def _escape(character: str) -> str:
    return f"%{ord(character):02X}" if character.isascii() else character
