"""Manifests built and checked: `infinite-id manifest build`, `infinite-id manifest check`."""

from __future__ import annotations

import csv
import io
from typing import Annotated

import pyarrow as pa
import typer

from eval.places import shown
from jobs import options
from jobs.console import console, user_errors
from pipelines.tables.manifest import (
    default_prompts,
    default_styles,
    kind_of,
    notes_of,
    read_manifest,
    write_manifests,
)
from pipelines.tables.mixes_and_groups import check_groups
from pipelines.tables.photo_folder import FolderAccount
from pipelines.tables.schemas import MANIFESTS
from pipelines.tables.storage import Store

__all__ = [
    "manifest_build",
    "manifest_check",
]

Optional = str | None
_FORMS = "CSV, YAML, JSONL, Excel or Parquet"


@user_errors()
def manifest_build(
    photos: Annotated[str, typer.Option(help="Folder: a person a file or a sub-folder.")],
    output: Annotated[str, typer.Option(help="Where the manifests go.")],
    prompts: Annotated[Optional, typer.Option(help=f"{_FORMS}; default: the shipped ones.")] = None,
    styles: Annotated[Optional, typer.Option(help=f"{_FORMS}; default: the shipped ones.")] = None,
    mixes: Annotated[Optional, typer.Option(help=f"{_FORMS}; default: no mixes.")] = None,
    groups: Annotated[Optional, typer.Option(help=f"{_FORMS}; default: no groups.")] = None,
    layout: options.Layout = "person",
    storage_options: options.StorageOptions = None,
) -> None:
    """Make manifests from a folder of photos (or an identities file), prompts and styles."""
    given = options.storage_options(storage_options)
    people = read_manifest("identities", photos, given, layout=layout)
    texts = default_prompts() if prompts is None else read_manifest("prompts", prompts, given)
    together = None if groups is None else read_manifest("groups", groups, given)
    if together is not None:
        check_groups(together, groups or "", set(people["identity_id"].to_pylist()))
    names = write_manifests(
        output,
        identities=people,
        prompts=texts,
        styles=default_styles() if styles is None else read_manifest("styles", styles, given),
        mixes=None if mixes is None else read_manifest("mixes", mixes, given),
        groups=together,
        options=given,
    )
    account = FolderAccount.of(people.schema)
    if account is not None and account.left_out:
        names.append("left_out.csv")
        Store(output, given).write_bytes(names[-1], _left_out(account))
    _tell("identities", people)
    _tell("prompts", texts)
    console.print(f"wrote {', '.join(names)} to {shown(output)}", markup=False)


@user_errors()
def manifest_check(
    files: Annotated[
        list[str],
        typer.Argument(help="Manifests; their columns tell the kind: identities, prompts ..."),
    ],
    kind: Annotated[
        Optional,
        typer.Option(help=f"Of all of them: {', '.join(MANIFESTS)}; default: by their columns."),
    ] = None,
    layout: options.Layout = "person",
    storage_options: options.StorageOptions = None,
) -> None:
    """Check manifests; the first fault is named with file, row and column.

    Groups are held against the identities among the files.
    """
    if kind is not None and kind not in MANIFESTS:
        raise ValueError(f"kind is {kind!r}, allowed: {', '.join(MANIFESTS)}")
    given = options.storage_options(storage_options)
    people, groups = set[str](), dict[str, pa.Table]()
    for name in files:
        if kind is None:
            found, table = kind_of(name, given, layout=layout)
        else:
            found, table = kind, read_manifest(kind, name, given, layout=layout)
        if found == "groups":  # whose people may be in a file that comes later
            groups[name] = table
            continue
        if found == "identities":
            people.update(table["identity_id"].to_pylist())
        _tell(found, table)
        _tell_valid(name, found, table)
    for name, table in groups.items():
        check_groups(table, shown(name), people or None)
        _tell_valid(name, "groups", table)


def _tell(kind: str, table: pa.Table) -> None:
    account = FolderAccount.of(table.schema)
    for line in notes_of(kind, table) or (account.lines() if account else ()):
        console.print(line, markup=False)


def _tell_valid(name: str, kind: str, table: pa.Table) -> None:
    console.print(f"{shown(name)}: {table.num_rows} {kind}, valid", markup=False)


def _left_out(account: FolderAccount) -> bytes:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(("entry", "reason"))
    rows.writerows(account.left_out)
    return text.getvalue().encode()


if __name__ == "__main__":
    _both = typer.Typer()
    _both.command("build")(manifest_build)
    _both.command("check")(manifest_check)
    _both()
