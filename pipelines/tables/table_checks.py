"""Tables held against their schemas: columns, types, keys, values that have to be there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pipelines.tables.schemas import version_of

__all__ = ["PANDAS_INDEX", "check_keys", "check_names", "check_table", "number_of"]

PANDAS_INDEX = "as pandas writes its row numbers (index=False leaves them out)"
_OF_PANDAS = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)?")
_RESULT_KEYS = {
    "faces": "image_id",
    "embeddings": "identity_id",
    "references": "identity_id",
    "requests": "sample_id",
    "images": "sample_id",
    "scores": "sample_id",
    "verdicts": "sample_id",
}


def check_table(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """`table` with the columns of `schema`, in its order and types.

    Missing nullable columns are added as nulls; columns that the schema does not know are refused,
    because a misspelt column would otherwise be ignored in silence. Nothing becomes text that was
    none, and no number is rounded. Metadata of this project stays.

    Args:
        table: as read.
        schema: one of this module's.
        where: what the message calls the table, e.g. its path.

    Raises:
        ValueError: a later version, a missing or unknown column, a wrong type, or a null or empty
            string in a required column; the message names `where`, the column and the row.
    """
    known = version_of(schema)
    found = version_of(table.schema)
    if known and found and (found[0] != known[0] or found[1] > known[1]):
        raise ValueError(
            f"{where} is table {found[0]!r} version {found[1]}, this program reads "
            f"{known[0]!r} up to version {known[1]}"
        )
    check_names(table.column_names, schema, where)
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise ValueError(
                    f"{where} lacks the column {field.name!r}, present: "
                    f"{', '.join(table.column_names) or 'none'}"
                )
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        try:
            if not _holds(column.type, field.type):
                raise pa.ArrowTypeError(str(column.type))
            column = column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise ValueError(
                f"{where}, column {field.name!r}: type is {column.type}, allowed: {field.type}"
            ) from error
        if not field.nullable:
            _check_present(column, field, where)
        columns.append(column)
    given = table.schema.metadata or {}
    carried = {k: v for k, v in given.items() if k.startswith(b"infinite_id.")}
    metadata = {**carried, **(schema.metadata or {})}
    return pa.table(columns, schema=schema.with_metadata(metadata))


def check_names(names: Iterable[object], schema: pa.Schema, where: str) -> None:
    """Raises a ValueError that names the first column which the schema does not know."""
    unknown = next((str(name) for name in names if name not in schema.names), None)
    if unknown is not None:
        pandas = f", {PANDAS_INDEX}" if _OF_PANDAS.fullmatch(unknown) else ""
        raise ValueError(
            f"{where} has the unknown column {unknown!r}{pandas}, allowed: "
            f"{', '.join(schema.names)}"
        )


def number_of(value: Any, place: str) -> float:
    """A cell of a file of rows as a number.

    Raises:
        ValueError: it is none, as true and false are none; names `place`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{place}: value is {value!r}, allowed: a number") from None


def check_keys(table: pa.Table, where: str) -> None:
    """Raises a RuntimeError where a key stands twice in a table of results: joins would double it.

    Args:
        table: with a schema of this module's.
        where: what the message calls the table.
    """
    known = version_of(table.schema)
    key = _RESULT_KEYS.get(known[0]) if known else None
    if key is None:
        return
    counts = Counter(table[key].to_pylist())
    twice = next((value for value, count in counts.items() if count > 1), None)
    if twice is not None:
        raise RuntimeError(f"{where}, column {key!r}: {twice!r} stands {counts[twice]} times")


def _holds(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast keeps the meaning: 1.5 is no text and no whole number, nor is true."""
    if pa.types.is_list(wanted) and hasattr(given, "value_type"):
        return _holds(given.value_type, wanted.value_type)
    if pa.types.is_dictionary(given):
        given = given.value_type
    if wanted == pa.string():
        return _is_text(given) or pa.types.is_null(given)
    if pa.types.is_floating(wanted):
        return not pa.types.is_boolean(given)
    if pa.types.is_integer(wanted):
        return not pa.types.is_boolean(given) and not _is_text(given)
    return True


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_text(kind)
        for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _check_present(column: pa.ChunkedArray, field: pa.Field, where: str) -> None:
    for row, value in enumerate(column) if column.null_count else ():
        if not value.is_valid:
            raise ValueError(f"{where}, row {row}, column {field.name!r}: value is null")
    # A style's suffix may be empty: the raw style adds no words.
    if pa.types.is_string(field.type) and field.name not in ("suffix", "negative_prompt"):
        for row, text in enumerate(column.to_pylist()):
            if not text.strip():
                raise ValueError(f"{where}, row {row}, column {field.name!r}: value is empty")
