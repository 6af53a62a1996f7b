"""Manifests: what a user writes. Reading, checking and building them; light (no torch, no ray).

Any manifest may be Parquet (a file or a folder of files), CSV, YAML, JSONL or Excel. Identities may
also be made from a folder of photos: one person per file, or per sub-folder with several photos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as record_field
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa

from infinite_id.names import NAME_RULE, name_fault
from pipelines.tables.mixes_and_groups import (
    as_spelled,
    check_cells,
    check_mixes,
    group_fault,
    one_spelling,
    with_parts,
    with_people,
)
from pipelines.tables.photo_column import check_photos, photos_of, with_photos
from pipelines.tables.photo_folder import PHOTO_SUFFIXES, FolderAccount, people_of_folder
from pipelines.tables.prompt_controls import check_controls, keypoints_of
from pipelines.tables.prompt_pictures import check_pictures, with_addresses
from pipelines.tables.rows import SUFFIXES, parquet_folder, parse_rows, yaml_rows
from pipelines.tables.schemas import GROUPS, MANIFESTS, MIXES
from pipelines.tables.storage import Store
from pipelines.tables.table_checks import check_names, check_table, number_of

__all__ = [
    "Manifests",
    "check_manifest",
    "default_prompts",
    "default_styles",
    "kind_of",
    "notes_of",
    "read_manifest",
    "write_manifests",
]

_KEYS = {
    "identities": "identity_id",
    "prompts": "prompt_id",
    "styles": "style",
    "mixes": "mix_id",
    "groups": "group_id",
}
_MAY_BE_EMPTY = ("mixes", "groups")
_ALL_COLUMNS = frozenset(name for schema in MANIFESTS.values() for name in schema.names)


@dataclass(frozen=True, slots=True)
class Manifests:
    """The tables that a run crosses: see `pipelines.tables.schemas` for their columns."""

    identities: pa.Table
    prompts: pa.Table
    styles: pa.Table
    mixes: pa.Table
    groups: pa.Table = record_field(default_factory=GROUPS.empty_table)

    @property
    def notes(self) -> list[str]:
        """What a user should know of valid manifests, see `notes_of`, and which groups have no
        pictures."""
        kinds = ("identities", "prompts")
        notes = [note for kind in kinds for note in notes_of(kind, getattr(self, kind))]
        return [*notes, *self.group_faults]

    @property
    def group_faults(self) -> list[str]:
        """A sentence for each group that a run rejects."""
        people = set(self.identities["identity_id"].to_pylist())
        faults = [group_fault(row, people) for row in self.groups.to_pylist()]
        return [fault[1] for fault in faults if fault is not None]

    @property
    def shown(self) -> int:
        """Who and what a prompt is crossed with: people, mixes and groups."""
        return self.identities.num_rows + self.mixes.num_rows + self.groups.num_rows


def default_prompts() -> pa.Table:
    """The prompts of the paper's slides."""
    return _packaged("prompts", "pipelines", "data")


def default_styles() -> pa.Table:
    """The style sheet, which the Python interface has too."""
    return _packaged("styles", "infinite_id", "assets")


def _packaged(kind: str, package: str, folder: str) -> pa.Table:
    text = resources.files(package).joinpath(folder, f"{kind}.yaml").read_text("utf-8")
    where = f"the default {kind}"
    return _manifest(kind, yaml_rows(text, where), where, None)


def read_manifest(
    kind: str,
    address: str,
    options: Mapping[str, Any] | None = None,
    *,
    layout: str = "person",
) -> pa.Table:
    """Reads and checks one manifest.

    Addresses of photos and pictures that are relative are taken from the folder of the manifest.

    Args:
        kind: of `MANIFESTS`.
        address: a file (Parquet, CSV, YAML, JSONL, JSON, Excel) or a folder of Parquet files; for
            identities also a folder of photos or one photo.
        options: of file systems by scheme.
        layout: of a folder of photos, see `pipelines.tables.photo_folder`.

    Raises:
        ValueError: the file, the row and the column that are wrong, and what is allowed.
    """
    found = _open(kind, address, options, layout)
    return _manifest(kind, found.content, found.where, found.folder)


def kind_of(
    address: str, options: Mapping[str, Any] | None = None, *, layout: str = "person"
) -> tuple[str, pa.Table]:
    """(kind, table) of a manifest whose kind its columns tell: each kind has its own key column.

    Raises:
        ValueError: as `read_manifest`, or no kind has such columns.
    """
    found = _open("identities", address, options, layout)
    if isinstance(found.content, pa.Table):
        names = set(found.content.column_names)
    else:
        if not found.content:
            raise ValueError(f"{found.where} has 0 rows, allowed: 1 or more")
        names = {str(n) for row in found.content if isinstance(row, Mapping) for n in row}
    kinds = [kind for kind, key in _KEYS.items() if key in names]
    if len(kinds) != 1:
        wanted = ", ".join(f"{key} ({kind})" for kind, key in _KEYS.items())
        raise ValueError(
            f"{found.where} has the columns {', '.join(sorted(names)) or 'none'}, allowed: exactly "
            f"one of {wanted}; or name its kind with --kind"
        )
    return kinds[0], _manifest(kinds[0], found.content, found.where, found.folder)


@dataclass(frozen=True, slots=True)
class _Found:
    """What stands at an address: rows or a table, what messages call it, and its folder."""

    content: list[Any] | pa.Table
    where: str
    folder: str


def _open(kind: str, address: str, options: Mapping[str, Any] | None, layout: str) -> _Found:
    where = str(address)
    if not where.strip():
        raise ValueError(f"{kind} manifest is {where!r}, allowed: a file or a folder")
    store = Store(where, options)
    if not store.exists():
        also = "a folder of photos, or " if kind == "identities" else ""
        raise ValueError(f"{kind} {where} does not exist, allowed: {also}a manifest file")
    suffix = Path(store.address).suffix.lower()
    folder, _, name = store.address.rpartition("/")
    if not store.is_file():
        table = parquet_folder(store, where)
        if table is not None:
            return _Found(table, where, folder)
        if kind == "identities":
            return _Found(people_of_folder(store, where, layout)[0], where, store.address)
        raise ValueError(
            f"{kind} manifest {where} is a folder without Parquet files, allowed: a file that "
            f"ends in {', '.join(SUFFIXES)}, or a folder of .parquet files"
        )
    if kind == "identities" and suffix in PHOTO_SUFFIXES:
        row = {"identity_id": Path(name).stem, "photos": [{"uri": name, "bytes": None}]}
        return _Found([row], where, folder)
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{kind} manifest {where} ends in {suffix!r}, allowed: {', '.join(SUFFIXES)}"
        )
    if suffix == ".parquet":
        return _Found(store.read_table(""), where, folder)
    rows = parse_rows(suffix, store.read_bytes(""), _ALL_COLUMNS, where)
    return _Found(rows, where, folder)


def _manifest(kind: str, content: list[Any] | pa.Table, where: str, folder: str | None) -> pa.Table:
    table = content if isinstance(content, pa.Table) else _to_table(kind, content, where)
    if kind == "identities":
        table = with_photos(table, where, folder)
    if kind == "prompts":
        table = with_addresses(table, folder)
    return check_manifest(kind, table, where)


def _to_table(kind: str, rows: list[Any], where: str) -> pa.Table:
    schema = MANIFESTS[kind]
    cleaned = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}, row {number}: is {type(row).__name__}, allowed: a mapping")
        check_names(row, schema, f"{where}, row {number}")
        cleaned.append(_nested(kind, dict(row), f"{where}, row {number}"))
    columns: dict[str, pa.Array] = {}
    for field in schema:
        values = [row.get(field.name) for row in cleaned]
        if field.name == "suffix":
            values = ["" if value is None else value for value in values]
        columns[field.name] = _column(values, field, where)
    return pa.table(columns)


def _column(values: list[Any], field: pa.Field, where: str) -> pa.Array:
    if field.type == pa.string():
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                raise ValueError(
                    f"{where}, row {row}, column {field.name!r}: value is {value!r}, allowed: text "
                    "(in quotes; in Excel in cells of the format Text)"
                )
    if field.type == pa.int32():
        values = [
            None if value is None else _whole(value, f"{where}, row {row}, column {field.name!r}")
            for row, value in enumerate(values)
        ]
    if field.type == pa.float64():
        values = [
            None
            if value is None
            else number_of(value, f"{where}, row {row}, column {field.name!r}")
            for row, value in enumerate(values)
        ]
    try:
        return pa.array(values, type=field.type)
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise ValueError(f"{where}, column {field.name!r}: {error}") from error


def _whole(value: Any, place: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    exact = isinstance(value, str) or number == value
    if number is None or isinstance(value, bool) or not exact or not 0 <= number < 2**31:
        raise ValueError(f"{place}: value is {value!r}, allowed: a whole number, 0 or more")
    return number


def _nested(kind: str, row: dict[str, Any], where: str) -> dict[str, Any]:
    """Short forms of nested columns: photos as a list of addresses, parts as {id: weight}."""
    if kind == "identities" and row.get("photos") is not None:
        row["photos"] = photos_of(row["photos"], f"{where}, column 'photos'")
    if kind == "prompts" and row.get("control_keypoints") is not None:
        place = f"{where}, column 'control_keypoints'"
        row["control_keypoints"] = keypoints_of(row["control_keypoints"], place)
    if kind == "mixes" and "parts" in row:
        return with_parts(row, where)
    return with_people(row, where) if kind == "groups" else row


def check_manifest(kind: str, table: pa.Table, where: str) -> pa.Table:
    """`table` in its schema's order and types, with unique keys and at least one row.

    Raises:
        ValueError: names the manifest, the row and the column.
    """
    table = check_table(table, MANIFESTS[kind], where)
    if table.num_rows == 0 and kind not in _MAY_BE_EMPTY:
        raise ValueError(f"{where} has 0 rows, allowed: 1 or more {kind}")
    key = _KEYS[kind]
    for row, name in enumerate(table[key].to_pylist()):
        if (fault := name_fault(name)) is not None:
            raise ValueError(
                f"{where}, row {row}, column {key!r}: value is {name!r}, {fault}, allowed: "
                f"{NAME_RULE}"
            )
    names = [one_spelling(name) for name in table[key].to_pylist()]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        rows = [i for i, value in enumerate(names) if value == twice[0]]
        raise ValueError(
            f"{where}, rows {rows[0]} and {rows[1]}, column {key!r}: {twice[0]!r} stands twice"
        )
    if kind == "identities":
        check_photos(table, where)
        _check_face_numbers(table, where)
    if kind == "mixes":
        check_mixes(table, where)
    if kind == "groups":
        check_cells(table, where)
    if kind == "prompts":
        check_pictures(table, where)
        check_controls(table, where)
    return table


def _check_face_numbers(table: pa.Table, where: str) -> None:
    for row, number in enumerate(table["face_index"].to_pylist()):
        if number is not None and number < 0:
            raise ValueError(
                f"{where}, row {row}, column 'face_index': value is {number}, allowed: 0 or more"
            )


def notes_of(kind: str, table: pa.Table) -> list[str]:
    """Sentences on what a user should know of a manifest that is valid: what a folder of photos
    left out or merged, prompts that do not name the person."""
    account = FolderAccount.of(table.schema) if kind == "identities" else None
    if account is not None and (account.left_out or account.told):
        return account.lines()
    if kind != "prompts":
        return []
    without = [row["prompt_id"] for row in table.to_pylist() if "{subject}" not in row["text"]]
    if not without:
        return []
    return [
        f"{len(without)} of {table.num_rows} prompts have no {{subject}}, the first is "
        f"{without[0]!r}: their texts do not say where the person stands"
    ]


def write_manifests(
    output: str,
    *,
    identities: pa.Table,
    prompts: pa.Table,
    styles: pa.Table,
    mixes: pa.Table | None = None,
    groups: pa.Table | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes the manifests as Parquet; returns the names written."""
    store = Store(output, options)
    tables: Iterable[tuple[str, pa.Table]] = (
        ("identities", identities),
        ("prompts", prompts),
        ("styles", styles),
        ("mixes", MIXES.empty_table() if mixes is None else mixes),
        ("groups", GROUPS.empty_table() if groups is None else groups),
    )
    names = []
    for kind, table in tables:
        names.append(f"{kind}.parquet")
        checked = check_manifest(kind, table, kind)
        if kind in _MAY_BE_EMPTY:
            checked = as_spelled(checked, identities["identity_id"].to_pylist())
        store.write_table(names[-1], checked, row_group_size=256)
    return names
