"""Manifests built and checked: `infinite-id manifest build`, `infinite-id manifest check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.console import console, user_errors
from pipelines.tables.manifest import (
    default_prompts,
    default_styles,
    read_manifest,
    write_manifests,
)

__all__ = [
    "manifest_build",
    "manifest_check",
]

Optional = str | None


@user_errors()
def manifest_build(
    photos: Annotated[str, typer.Option(help="Folder: a person a file or a sub-folder.")],
    output: Annotated[str, typer.Option(help="Where the manifests go.")],
    prompts: Annotated[Optional, typer.Option(help="CSV, YAML, JSONL or Parquet.")] = None,
    styles: Annotated[Optional, typer.Option(help="CSV, YAML, JSONL or Parquet.")] = None,
    mixes: Annotated[Optional, typer.Option(help="CSV, YAML, JSONL or Parquet.")] = None,
) -> None:
    """Make manifests from a folder of photos (or an identities file), prompts and styles."""
    names = write_manifests(
        output,
        identities=read_manifest("identities", photos),
        prompts=read_manifest("prompts", prompts) if prompts else default_prompts(),
        styles=read_manifest("styles", styles) if styles else default_styles(),
        mixes=read_manifest("mixes", mixes) if mixes else None,
    )
    console.print(f"wrote {', '.join(names)} to {output}")


@user_errors()
def manifest_check(
    files: Annotated[
        list[str],
        typer.Argument(help="Manifests; the kind is read from the name: identities, prompts ..."),
    ],
) -> None:
    """Check manifests; the first fault is named with file, row and column."""
    for name in files:
        kind = next(
            (k for k in ("identities", "prompts", "styles", "mixes") if k in Path(name).stem), None
        )
        if kind is None:
            raise ValueError(
                f"manifest {name} names no kind, allowed: a name with identities, prompts, styles "
                "or mixes in it"
            )
        table = read_manifest(kind, name)
        console.print(f"{name}: {table.num_rows} {kind}, valid")
