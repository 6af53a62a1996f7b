"""Tables in a folder on any file system: Parquet files, read and written."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from eval.files import Files

__all__ = ["Store"]

_READERS = 8


class Store(Files):
    """A folder that tables and files are read from and written to."""

    def write_table(self, name: str, table: pa.Table, *, row_group_size: int | None = None) -> int:
        """Writes a table as one Parquet file, atomically; returns its bytes."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size)
        self.write_bytes(name, buffer.getvalue())
        return buffer.tell()

    @contextlib.contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """One Parquet file, open.

        Raises:
            StorageError: it cannot be read, then or while it is open.
        """
        with self.reading(name) as file:
            yield pq.ParquetFile(file)

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Reads one Parquet file."""
        with self.parquet(name) as file:
            return file.read(columns=columns)

    def tables(self, folder: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The tables of all Parquet files directly in `folder`, one after the other."""
        for name in self.names(folder, ".parquet"):
            yield self.read_table(f"{folder}/{name}", columns)

    def read_folder(
        self,
        folder: str,
        schema: pa.Schema,
        columns: list[str] | None = None,
        *,
        name_files: bool = False,
    ) -> pa.Table:
        """All rows of `folder` as one table; empty with `schema` where there is no file.

        Args:
            folder: of Parquet files.
            schema: of the table.
            columns: to read; None for all.
            name_files: adds the column `file`, the name of the file that a row is in.
        """
        wanted = columns or schema.names

        def read(name: str) -> pa.Table:
            table = self.read_table(f"{folder}/{name}", wanted)
            if name_files:
                table = table.append_column("file", pa.array([name] * len(table), pa.string()))
            return table

        with ThreadPoolExecutor(_READERS) as readers:
            tables = list(readers.map(read, self.names(folder, ".parquet")))
        extra = [pa.field("file", pa.string())] if name_files else []
        empty = pa.schema([*(schema.field(name) for name in wanted), *extra]).empty_table()
        return pa.concat_tables(tables, promote_options="permissive") if tables else empty

    def count_rows(self, folder: str) -> int:
        """Rows of all Parquet files directly in `folder`, from their footers."""

        def rows(name: str) -> int:
            with self.parquet(f"{folder}/{name}") as file:
                return file.metadata.num_rows

        with ThreadPoolExecutor(_READERS) as readers:
            return sum(readers.map(rows, self.names(folder, ".parquet")))
