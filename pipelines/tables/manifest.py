"""Manifests: what a user writes. Reading, checking and building them; light (no torch, no ray).

Any manifest may be Parquet, CSV, YAML or JSONL. Identities may also be made from a folder of
photos: one person per file, or per sub-folder with several photos.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from infinite_id.packages import PackageFile, package_file
from pipelines.tables.schemas import IDENTITIES, MANIFESTS, MIXES, check_table
from pipelines.tables.storage import StorageError, Store

__all__ = [
    "PHOTO_SUFFIXES",
    "Manifests",
    "check_manifest",
    "default_prompts",
    "default_styles",
    "identities_from_folder",
    "parse_seeds",
    "read_manifest",
    "write_manifests",
    "demo_identities",
]

_SOURCE = "insightface 2.1, data/images"
_LICENCE = "insightface's sample photos; not for redistribution"
_GROUP = PackageFile(
    "insightface",
    "2.1",
    "insightface/data/images/t1.jpg",
    "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
    "MIT",
)


_SINGLE = PackageFile(
    "insightface",
    "2.1",
    "insightface/data/images/Tom_Hanks_54745.png",
    "8545da294e8c7c79911169c3915fed8528f1960cd0ed99b92453788ca4275083",
    "MIT",
)


PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_KEYS = {"identities": "identity_id", "prompts": "prompt_id", "styles": "style", "mixes": "mix_id"}
_READERS = (".parquet", ".csv", ".yaml", ".yml", ".jsonl", ".json")


@dataclass(frozen=True, slots=True)
class Manifests:
    """The four tables that a run crosses: see `pipelines.tables.schemas` for their columns."""

    identities: pa.Table
    prompts: pa.Table
    styles: pa.Table
    mixes: pa.Table


def default_prompts() -> pa.Table:
    """The prompts of the paper's slides."""
    return _packaged("prompts")


def default_styles() -> pa.Table:
    """The style sheet."""
    return _packaged("styles")


def _packaged(kind: str) -> pa.Table:
    text = resources.files("pipelines").joinpath("data", f"{kind}.yaml").read_text("utf-8")
    return _to_table(kind, yaml.safe_load(text), f"the default {kind}")


def read_manifest(kind: str, address: str, options: Mapping[str, Any] | None = None) -> pa.Table:
    """Reads and checks one manifest.

    Args:
        kind: identities, prompts, styles or mixes.
        address: a file (Parquet, CSV, YAML, JSONL), for identities also a folder of photos.
        options: of the fsspec file system.

    Raises:
        ValueError: the file, the row and the column that are wrong, and what is allowed.
    """
    suffix = Path(address).suffix.lower()
    if kind == "identities" and suffix not in _READERS:
        return check_manifest(kind, identities_from_folder(address, options), address)
    folder, _, name = str(address).rpartition("/")
    store = Store(folder or ".", options)
    if suffix not in _READERS:
        raise ValueError(
            f"{kind} manifest {address} ends in {suffix!r}, allowed: {', '.join(_READERS)}"
        )
    if not store.exists(name):
        raise ValueError(f"{kind} manifest {address} does not exist")
    if suffix == ".parquet":
        return check_manifest(kind, store.read_table(name), address)
    try:
        rows = _parse_rows(suffix, store.read_bytes(name).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{kind} manifest {address} is not UTF-8 text") from error
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{kind} manifest {address} is no valid {suffix[1:]}: {reason}") from error
    return _to_table(kind, rows, address)


def _parse_rows(suffix: str, text: str) -> list[Any]:
    if suffix == ".csv":
        return [
            {key: value for key, value in row.items() if value not in (None, "")}
            for row in csv.DictReader(io.StringIO(text))
        ]
    if suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    rows = yaml.safe_load(text) if suffix != ".json" else json.loads(text)
    return rows if isinstance(rows, list) else [rows]


def _to_table(kind: str, rows: list[Any], where: str) -> pa.Table:
    schema = MANIFESTS[kind]
    cleaned = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}, row {number}: is {type(row).__name__}, allowed: a mapping")
        unknown = set(row) - set(schema.names)
        if unknown:
            raise ValueError(
                f"{where}, row {number} has the unknown column {sorted(map(str, unknown))[0]!r}, "
                f"allowed: {', '.join(schema.names)}"
            )
        cleaned.append(_nested(kind, dict(row), f"{where}, row {number}"))
    columns: dict[str, pa.Array] = {}
    for field in schema:
        values = [row.get(field.name) for row in cleaned]
        if field.name == "suffix":
            values = ["" if value is None else value for value in values]
        columns[field.name] = _column(values, field, where)
    return check_manifest(kind, pa.table(columns), where)


def _column(values: list[Any], field: pa.Field, where: str) -> pa.Array:
    if field.type == pa.string():
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise ValueError(
                    f"{where}, row {row}, column {field.name!r}: value is {value!r}, allowed: text"
                )
    if field.type == pa.int32():
        for row, value in enumerate(values):
            try:
                values[row] = None if value is None else int(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{where}, row {row}, column {field.name!r}: value is {value!r}, "
                    "allowed: a whole number"
                ) from None
    return pa.array(values, type=field.type)


def _nested(kind: str, row: dict[str, Any], where: str) -> dict[str, Any]:
    """Short forms of nested columns: photos as a list of addresses, parts as {id: weight}."""
    if kind == "identities" and "photos" in row:
        photos = row["photos"]
        if isinstance(photos, str):
            photos = [part.strip() for part in photos.split(";") if part.strip()]
        if not isinstance(photos, list) or not all(isinstance(p, (str, dict)) for p in photos):
            raise ValueError(f"{where}, column 'photos': value is {photos!r}, allowed: addresses")
        row["photos"] = [
            {"uri": p, "bytes": None}
            if isinstance(p, str)
            else {"uri": p.get("uri"), "bytes": p.get("bytes")}
            for p in photos
        ]
    if kind == "mixes" and "parts" in row:
        parts = row["parts"]
        if isinstance(parts, str):
            pairs = [part.partition(":") for part in parts.split(";") if part.strip()]
            parts = {name.strip(): weight or "1" for name, _, weight in pairs}
        if isinstance(parts, Mapping):
            parts = [{"identity_id": name, "weight": weight} for name, weight in parts.items()]
        try:
            row["parts"] = [
                {"identity_id": str(p["identity_id"]), "weight": float(p["weight"])} for p in parts
            ]
        except (TypeError, KeyError, ValueError):
            raise ValueError(
                f"{where}, column 'parts': value is {parts!r}, allowed: identity_id: weight pairs"
            ) from None
    return row


def check_manifest(kind: str, table: pa.Table, where: str) -> pa.Table:
    """`table` in its schema's order and types, with unique keys and at least one row.

    Raises:
        ValueError: names the manifest, the row and the column.
    """
    table = check_table(table, MANIFESTS[kind], where)
    if table.num_rows == 0 and kind != "mixes":
        raise ValueError(f"{where} has 0 rows, allowed: 1 or more {kind}")
    key = _KEYS[kind]
    twice = [name for name, n in Counter(table[key].to_pylist()).items() if n > 1]
    if twice:
        rows = [i for i, value in enumerate(table[key].to_pylist()) if value == twice[0]]
        raise ValueError(
            f"{where}, rows {rows[0]} and {rows[1]}, column {key!r}: {twice[0]!r} stands twice"
        )
    if kind == "identities":
        _check_photos(table, where)
    if kind == "mixes":
        _check_mixes(table, where)
    return table


def _check_photos(table: pa.Table, where: str) -> None:
    # Lengths and addresses only: the photos' bytes may be large.
    for row, photos in enumerate(table["photos"]):
        if len(photos) == 0:
            raise ValueError(f"{where}, row {row}, column 'photos': is empty, allowed: 1 or more")
        for photo in photos:
            if not photo["uri"].is_valid and not photo["bytes"].is_valid:
                raise ValueError(
                    f"{where}, row {row}, column 'photos': a photo has neither uri nor bytes"
                )


def _check_mixes(table: pa.Table, where: str) -> None:
    for row, mix in enumerate(table.to_pylist()):
        if mix["mode"] not in ("interpolate", "stack"):
            raise ValueError(
                f"{where}, row {row}, column 'mode': value is {mix['mode']!r}, "
                "allowed: interpolate, stack"
            )
        if len(mix["parts"]) < 2:
            raise ValueError(f"{where}, row {row}, column 'parts': allowed: 2 or more people")
        total = sum(part["weight"] for part in mix["parts"])
        if mix["mode"] == "interpolate" and not abs(total - 1.0) <= 1e-6:
            raise ValueError(
                f"{where}, row {row}, column 'parts': weights sum to {total:g}, allowed: 1"
            )


def identities_from_folder(address: str, options: Mapping[str, Any] | None = None) -> pa.Table:
    """An identities table from photos: each file one person, each sub-folder one person.

    Raises:
        ValueError: the folder does not exist or holds no photo.
    """
    store = Store(address, options)
    if not store.exists():
        raise ValueError(f"photos folder {address} does not exist")
    people: dict[str, list[str]] = {}
    try:
        found = sorted(store.fs.find(store.root, maxdepth=2))
    except OSError as error:
        raise StorageError(f"cannot list {address}: {error}") from error
    for path in found:
        if Path(path).suffix.lower() not in PHOTO_SUFFIXES:
            continue
        relative = path[len(store.root) :].lstrip("/")
        person = relative.split("/")[0] if "/" in relative else Path(relative).stem
        uri = path if store.is_local else f"{store.url}/{relative}"
        people.setdefault(person, []).append(uri)
    if not people:
        raise ValueError(
            f"photos folder {address} holds no photo, allowed: files that end in "
            f"{', '.join(PHOTO_SUFFIXES)}, one person a file or a sub-folder"
        )
    rows = [
        {"identity_id": person, "photos": [{"uri": uri, "bytes": None} for uri in uris]}
        for person, uris in people.items()
    ]
    return check_table(pa.Table.from_pylist(rows), IDENTITIES, address)


def parse_seeds(text: str) -> list[int]:
    """Seeds from "0:4" (0, 1, 2, 3), "7" or "0,3,9".

    Raises:
        ValueError: anything else, or an empty, negative or repeated seed.
    """
    try:
        if ":" in text:
            first, _, last = text.partition(":")
            seeds = list(range(int(first or 0), int(last)))
        else:
            seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds) or max(seeds) >= 2**63:
        raise ValueError(f"seeds are {text!r}, allowed: 0:4, or 7, or 0,3,9 (each once, >= 0)")
    return seeds


def write_manifests(
    output: str,
    *,
    identities: pa.Table,
    prompts: pa.Table,
    styles: pa.Table,
    mixes: pa.Table | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes the manifests as Parquet; returns the names written."""
    store = Store(output, options)
    tables: Iterable[tuple[str, pa.Table]] = (
        ("identities", identities),
        ("prompts", prompts),
        ("styles", styles),
        ("mixes", mixes if mixes is not None else MIXES.empty_table()),
    )
    names = []
    for kind, table in tables:
        names.append(f"{kind}.parquet")
        store.write_table(names[-1], check_manifest(kind, table, kind), row_group_size=256)
    return names


def demo_identities() -> pa.Table:
    """Seven people: the six of one group photo, left to right, and one portrait.

    Raises:
        PackageFileError: the insightface package is missing or ships other photos.
    """
    rows: list[dict[str, Any]] = [
        {"identity_id": f"group_{index}", "photo": _GROUP, "face_index": index}
        for index in range(6)
    ]
    rows.append({"identity_id": "portrait", "photo": _SINGLE, "face_index": None})
    table = [
        {
            "identity_id": row["identity_id"],
            "photos": [{"uri": str(package_file(row["photo"])), "bytes": None}],
            "face_index": row["face_index"],
            "class_word": "person",
            "consent": "demonstration only",
            "licence": _LICENCE,
            "source": _SOURCE,
        }
        for row in rows
    ]
    return check_table(pa.Table.from_pylist(table), IDENTITIES, "the demo identities")
