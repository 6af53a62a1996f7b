"""Files of rows as other programs write them: CSV, JSONL, JSON, YAML, Excel, Parquet.

Each form is read by a well-kept reader in its strict mode: the standard library's csv and json,
PyYAML, calamine (Excel), pyarrow. What this module adds is what those leave open: which separator,
which encoding, and the number of the row in every message. Rows are counted from 0.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import zipfile
import zlib
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import yaml

from pipelines.tables.storage import Store
from pipelines.tables.table_checks import PANDAS_INDEX

__all__ = ["SUFFIXES", "parse_rows", "parquet_folder", "yaml_rows"]

SUFFIXES = (".parquet", ".csv", ".tsv", ".yaml", ".yml", ".jsonl", ".json", ".xlsx")
"""Endings of the files that are read."""

_SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Excel takes the separator from a first line that is not of the table: sep=;
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
# The longest cell: the reader's own limit of 131,072 characters is met by base64 photos.
_LONGEST_CELL = 2**31 - 1


def parse_rows(suffix: str, data: bytes, names: Collection[str], where: str) -> list[Any]:
    """The rows of one file, as they are written: nothing is converted or left out.

    Args:
        suffix: one of `SUFFIXES` but ".parquet".
        data: the file.
        names: columns that are known; a CSV's separator is the one that finds most of them.
        where: what messages call the file.

    Returns:
        A list of mappings; of JSON and YAML, of whatever stands there.

    Raises:
        ValueError: the file is not of that form; the message names the row and the line.
    """
    if suffix == ".xlsx":
        return _excel_rows(data, where)
    text = _text(data, where)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(text, names, where)
    if suffix == ".jsonl":
        return _jsonl_rows(text, where)
    if suffix == ".json":
        rows = _json(text, where)
        return rows if isinstance(rows, list) else [rows]
    return yaml_rows(text, where)


def parquet_folder(store: Store, where: str) -> pa.Table | None:
    """All Parquet files of a folder as Spark, Hive or a hub lay it out; None where it holds none.

    Folders named ``column=value`` become columns. Names that begin with "_" or "." are passed
    over, as the writers of such folders mean it (``_SUCCESS``).

    Raises:
        ValueError: a file cannot be read, or the files have different columns.
    """
    files = [
        path
        for path in sorted(store.fs.find(store.root))
        if path.endswith(".parquet")
        and not any(part.startswith(("_", ".")) for part in _inside(store, path).parts)
    ]
    if not files:
        return None
    try:
        # Here: it imports pandas, which every command would wait for.
        import pyarrow.dataset as ds

        found = ds.dataset(
            files,
            filesystem=store.fs,
            format="parquet",
            partitioning=ds.HivePartitioning.discover(),
            partition_base_dir=store.root,
        )
        return found.to_table()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} cannot be read as one Parquet table: {reason}") from error


def yaml_rows(text: str, where: str) -> list[Any]:
    """The rows of a YAML document; a key that stands twice in one mapping is an error."""
    try:
        rows = yaml.load(text, _StrictLoader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is no valid yaml: {reason}") from error
    return rows if isinstance(rows, list) else [rows]


def _inside(store: Store, path: str) -> PurePosixPath:
    return PurePosixPath(path[len(store.root) :].lstrip("/"))


def _text(data: bytes, where: str) -> str:
    encoding = "utf-8"
    for mark, name in _MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{where}, line {line}: is not UTF-8 text, save the file as UTF-8"
        ) from error


def _csv_rows(text: str, names: Collection[str], where: str) -> list[dict[str, str]]:
    told = _SEPARATOR_LINE.match(text)
    separator = told[1] if told else _separator(text, names)
    csv.field_size_limit(_LONGEST_CELL)
    # Lines end where the writer ended them: CR, LF or both.
    lines = io.StringIO(text[told.end() :] if told else text, newline="")
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] | None = None
    rows: list[dict[str, str]] = []
    while True:
        number, line = len(rows), reader.line_num + (2 if told else 1)
        place = f"{where}, " + ("header" if header is None else f"row {number} (line {line})")
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{place}: {_quote_fault(str(error), separator)}") from error
        if cells is None:
            return rows
        if header is None and not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _header([cell.strip() for cell in cells], place)
            continue
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        if len(cells) > len(header):
            raise ValueError(
                f"{place}: has {len(cells)} cells for {len(header)} columns, a cell with "
                f"{separator!r} in it must stand in quotes"
            )
        row = {name: cell for name, cell in zip(header, cells, strict=False) if cell != ""}
        if row:
            rows.append(row)


def _separator(text: str, names: Collection[str]) -> str:
    nothing = "".join(_SEPARATORS) + ' "\r\n'
    first = next((line for line in io.StringIO(text) if line.strip(nothing)), "")

    def known(separator: str) -> int:
        cells = first.rstrip("\r\n").split(separator)
        return sum(cell.strip().strip('"') in names for cell in cells)

    return max(_SEPARATORS, key=known)


def _header(names: list[str], place: str) -> list[str]:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{place}: the column {twice!r} stands twice")
    while names and not names[-1]:
        names.pop()
    if "" in names:
        number = names.index("")
        pandas = f", {PANDAS_INDEX}" if number == 0 else ""
        raise ValueError(f"{place}: column {number} has no name{pandas}")
    return names


def _quote_fault(reason: str, separator: str) -> str:
    if reason == "unexpected end of data":
        return 'a quote (") opens and is never closed'
    if "expected after" in reason:
        return f'a quoted cell ends before the next {separator!r}; a quote inside it is written ""'
    return reason


def _jsonl_rows(text: str, where: str) -> list[Any]:
    rows: list[Any] = []
    # Not splitlines: U+2028 and U+0085 may stand in a JSON string.
    for line, written in enumerate(text.split("\n"), start=1):
        if written.strip():
            rows.append(_json(written, f"{where}, row {len(rows)} (line {line})"))
    return rows


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except RecursionError:
        raise ValueError(f"{place} is nested too deeply") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise ValueError(
            f"{place} is no valid JSON: {error.msg}, {line}column {error.colno}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{place} is no valid JSON: {error}") from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of two equal keys in silence, made to refuse."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if _hashable(name):
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name!r} stands twice", key.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)


def _hashable(value: Any) -> bool:
    return not isinstance(value, (list, dict, set))


def _excel_rows(data: bytes, where: str) -> list[dict[str, Any]]:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        sheets = {name: book.get_sheet_by_name(name).to_python() for name in book.sheet_names}
        lost = _lost_cell(data)
    except (
        CalamineError,
        ValueError,
        OSError,
        ElementTree.ParseError,
        zipfile.BadZipFile,
        NotImplementedError,  # a form of compression
        RuntimeError,  # a password
        zlib.error,
    ) as error:
        raise ValueError(f"{where} is no valid Excel workbook: {error}") from error
    if lost is not None:
        raise ValueError(f"{where}, {lost}, allowed: a value in each cell of its own")
    filled = {name: rows for name, rows in sheets.items() if any(any(row) for row in rows)}
    if len(filled) > 1:
        raise ValueError(
            f"{where} has the sheets {', '.join(map(repr, filled))}, allowed: one with cells in it"
        )
    table = [row for row in next(iter(filled.values()), []) if any(cell != "" for cell in row)]
    if not table:
        return []
    width = max((n + 1 for n, cell in enumerate(table[0]) if cell != ""), default=0)
    header = _header([str(cell).strip() for cell in table[0][:width]], f"{where}, header")
    rows: list[dict[str, Any]] = []
    for number, cells in enumerate(table[1:]):
        surplus = [cell for cell in cells[width:] if cell != ""]
        if surplus:
            raise ValueError(f"{where}, row {number}: has a cell without a column: {surplus[0]!r}")
        pairs = zip(header, cells[:width], strict=True)
        rows.append({name: _whole(cell) for name, cell in pairs if cell != ""})
    return rows


def _lost_cell(data: bytes) -> str | None:
    """The first cell that holds what the reader takes for nothing; None where there is none."""
    if not zipfile.is_zipfile(io.BytesIO(data)):  # an older form
        return None
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        for name in sorted(book.namelist()):
            if not (name.startswith("xl/worksheets/") and name.endswith(".xml")):
                continue
            rows = columns = 0
            with book.open(name) as sheet:
                for _, element in ElementTree.iterparse(sheet):  # noqa: S314 -- expat has bounds
                    kind = element.tag.rpartition("}")[2]
                    if kind == "mergeCell":
                        # Beside the table, merged cells hold nothing that could be lost.
                        row, column = _place(element.get("ref") or "")
                        if row <= rows and column <= columns:
                            return f"cells {element.get('ref')} of {name} are merged"
                    if kind == "c":
                        inside = {part.tag.rpartition("}")[2]: part.text for part in element}
                        if inside:
                            row, column = _place(element.get("r") or "")
                            rows, columns = max(rows, row), max(columns, column)
                        if element.get("t") == "e":
                            return f"cell {element.get('r')} is the error {inside.get('v')}"
                        # A computed text, which may be empty, is marked as one.
                        if "f" in inside and not inside.get("v") and element.get("t") != "str":
                            return f"cell {element.get('r')} is a formula that was not computed"
                        element.clear()
    return None


def _place(reference: str) -> tuple[int, int]:
    """Row and column from 1 of "B7", or of the first cell of "B7:C9"; (1, 1) where it says none."""
    found = re.match(r"([A-Z]{1,3})(\d{1,7})", reference)
    if found is None:
        return 1, 1
    letters, row = found.groups()
    column = 0
    for letter in letters:
        column = 26 * column + ord(letter) - ord("A") + 1
    return int(row), column


def _whole(cell: Any) -> Any:
    # Excel has no integers: 7 is kept as 7.0.
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell
