"""The files and tables of one run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from eval.files import Files
from eval.places import guarding

__all__ = ["RunFiles"]


class RunFiles(Files):
    """Reading and writing of one run folder on any file system that fsspec knows.

    Args:
        address: a path, or an address such as ``s3://bucket/run``.
        options: of file systems by scheme, see `eval.places.StorageOptions`.

    Attributes:
        unreadable: one sentence for each file that is no Parquet.

    Raises:
        ValueError: there is no such folder; StorageError (a ValueError): it cannot be looked at.
    """

    def __init__(self, address: str | Path, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(address, options)
        with guarding("look at", self.url):
            there = self.fs.isdir(self.path())
        if not there:
            raise ValueError(f"run folder {self.url} does not exist")
        self.unreadable: list[str] = []
        self._datasets: dict[str, ds.Dataset | None] = {}

    def write(self, name: str, data: bytes) -> str:
        """Writes a file, whole or not at all, and returns its address as it may be shown."""
        self.write_bytes(name, data)
        return f"{self.url}/{name}"

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file; None where there is no such file or it holds no object."""
        if not self.exists(name):
            return None
        data = self.read_bytes(name)
        try:
            value = json.loads(data)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def dataset(self, table: str) -> ds.Dataset | None:
        """The table's Parquet files; None where there is none.

        Files that are no Parquet are left out and named in `unreadable`.
        """
        if table not in self._datasets:
            self._datasets[table] = self._open(table)
        return self._datasets[table]

    def _open(self, table: str) -> ds.Dataset | None:
        # Not glob(): a folder's name may hold what is a pattern there.
        found = self.fs.find(self.path(table))
        # A name with a leading dot or underscore is a file that is being written.
        files = sorted(
            path
            for path in found
            if path.endswith(".parquet") and not path.rsplit("/", 1)[1].startswith((".", "_"))
        )
        if not files:
            return None
        read = ds.dataset(files, format="parquet", filesystem=self.fs, exclude_invalid_files=True)
        lost = set(files) - set(read.files)
        self.unreadable += [f"file {name} of table {table} is unreadable" for name in sorted(lost)]
        return read if read.files else None
