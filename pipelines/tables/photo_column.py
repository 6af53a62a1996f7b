"""The column `photos` of identities: every way to write it, as lists of (uri, bytes)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.places import shown
from pipelines.tables.schemas import IDENTITIES

__all__ = ["absolute", "check_photos", "name_of", "photos_of", "with_photos"]

_FIELDS = ("uri", "path", "bytes")
# A semicolon parts the addresses of one cell, but for the one in "data:image/png;base64,".
_PARTS = re.compile(r";(?!base64,)")
_LONGEST_DATA = 60
# What pandas and datasets make of a list or a mapping in a CSV.
_WRITTEN_OUT = re.compile(r"""\s*(\[\s*['"{]|\{\s*['"])""")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?=//)|data:")


def name_of(photo: Mapping[str, Any]) -> str | None:
    """What messages and tables call a photo: its address without passwords, and of a data: address
    no more than its start; None of bytes alone."""
    uri = photo["uri"]
    if uri is None:
        return None
    return uri[:_LONGEST_DATA] if uri.startswith("data:") else shown(uri)


def photos_of(value: Any, place: str) -> list[dict[str, Any]]:
    """The photos of one row of a text form: [{"uri", "bytes"}].

    Args:
        value: an address, several with semicolons between, a list of them, or mappings with uri
            (or path) and bytes (base64).
        place: what messages call it.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, str):
        if _WRITTEN_OUT.match(value):
            raise ValueError(
                f"{place}: value is {value[:_LONGEST_DATA]!r}, allowed in one cell: addresses with "
                "semicolons between them (lists and bytes stand in JSON, YAML or Parquet)"
            )
        value = _parted(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"{place}: value is {value!r}, allowed: addresses")
    return [_photo(photo, place) for photo in value]


def _parted(text: str) -> list[str]:
    return [part.strip() for part in _PARTS.split(text) if part.strip()]


def _photo(photo: Any, place: str) -> dict[str, Any]:
    if isinstance(photo, str):
        return {"uri": photo, "bytes": None}
    if not isinstance(photo, Mapping):
        raise ValueError(f"{place}: value is {photo!r}, allowed: an address, or its bytes")
    _check_fields(photo, place)
    data = photo.get("bytes")
    if isinstance(data, str):
        try:
            data = base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"{place}: the text of 'bytes' is no base64") from None
    uri = photo.get("uri") if photo.get("uri") is not None else photo.get("path")
    if (uri is not None and not isinstance(uri, str)) or not isinstance(data, bytes | None):
        raise ValueError(f"{place}: value is {type(photo).__name__} of {sorted(photo)}, allowed: "
                         "uri is text, bytes is base64")  # fmt: skip
    return {"uri": uri, "bytes": data}


def _check_fields(names: Iterable[str], place: str) -> None:
    unknown = next((name for name in names if name not in _FIELDS), None)
    if unknown is not None:
        raise ValueError(
            f"{place}: a photo has the unknown field {unknown!r}, allowed: {', '.join(_FIELDS)}"
        )


def with_photos(table: pa.Table, where: str, folder: str | None) -> pa.Table:
    """`table` with its photos as lists of (uri, bytes).

    Args:
        table: whose photos may be addresses alone, one or a list, or a hub's image structs.
        where: what messages call the table.
        folder: what relative addresses are relative to; None leaves them.

    Raises:
        ValueError: another type, or a field that a photo does not have.
    """
    if "photos" not in table.column_names:
        return table
    place = f"{where}, column 'photos'"
    column = table["photos"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = column.to_pylist()
        column = pa.array([None if t is None else _parted(t) for t in texts], pa.list_(pa.string()))
    elif pa.types.is_struct(kind):
        offsets = pa.array(range(len(column) + 1), pa.int32())
        column = pa.ListArray.from_arrays(offsets, column)
    kind = column.type
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise ValueError(
            f"{place}: type is {kind}, allowed: addresses, or structs of uri and bytes"
        )
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"{where}, row {row}, column 'photos': value is null")
    flat = pc.list_flatten(column)
    uris, data = _uris_and_bytes(flat, place)
    if folder is not None:
        uris = pa.array(
            [
                absolute(uri, folder) if uri is not None and not held else uri
                for uri, held in zip(uris.to_pylist(), data.is_valid().to_pylist(), strict=True)
            ],
            pa.string(),
        )
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    wanted = IDENTITIES.field("photos").type
    photos = pa.StructArray.from_arrays([uris, data], fields=list(wanted.value_type))
    at = table.column_names.index("photos")
    return table.set_column(at, "photos", pa.ListArray.from_arrays(offsets, photos, type=wanted))


def _uris_and_bytes(flat: pa.Array, place: str) -> tuple[pa.Array, pa.Array]:
    kind, none = flat.type, pa.nulls(len(flat), pa.large_binary())
    if pa.types.is_null(kind):
        return pa.nulls(len(flat), pa.string()), none
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return flat.cast(pa.string()), none
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.nulls(len(flat), pa.string()), flat.cast(pa.large_binary())
    if not pa.types.is_struct(kind):
        raise ValueError(f"{place}: a photo is {kind}, allowed: an address, or uri and bytes")
    names = [field.name for field in kind]
    _check_fields(names, place)
    fields = {name: pc.struct_field(flat, name) for name in names}
    try:
        given = [fields[name].cast(pa.string()) for name in ("uri", "path") if name in fields]
        uris = pc.coalesce(*given) if given else pa.nulls(len(flat), pa.string())
        data = fields["bytes"].cast(pa.large_binary()) if "bytes" in fields else none
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{place}: a photo is {kind}, allowed: text and binary") from error
    return uris, data


def absolute(uri: str, folder: str) -> str:
    """`uri`, where it is relative taken from `folder`."""
    if not uri.strip() or _SCHEME.match(uri) or uri.startswith(("/", "~/")):
        return uri
    return f"{folder}/{uri.removeprefix('./')}"


def check_photos(table: pa.Table, where: str) -> None:
    """Raises a ValueError unless every person has photos and every photo an address or bytes."""
    # Lengths and addresses only: the photos' bytes may be large.
    lengths = pc.list_value_length(table["photos"]).to_pylist()
    if 0 in lengths:
        row = lengths.index(0)
        raise ValueError(f"{where}, row {row}, column 'photos': is empty, allowed: 1 or more")
    flat = pc.list_flatten(table["photos"])
    rows = pc.list_parent_indices(table["photos"]).to_pylist()
    uris = pc.fill_null(pc.struct_field(flat, "uri"), "")
    named = pc.not_equal(pc.utf8_trim_whitespace(uris), "").to_pylist()
    held = pc.is_valid(pc.struct_field(flat, "bytes")).to_pylist()
    for row, with_uri, with_bytes in zip(rows, named, held, strict=True):
        if not with_uri and not with_bytes:
            raise ValueError(
                f"{where}, row {row}, column 'photos': a photo has neither uri nor bytes"
            )
