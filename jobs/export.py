"""A run's pictures as a data set: `infinite-id export`."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from jobs import options
from jobs.console import console, progress_display, user_errors

__all__ = ["export"]


@user_errors("what is written stays, the same command writes the rest")
def export(
    run: Annotated[str, typer.Argument(help="Run folder, any fsspec address.")],
    output: Annotated[str, typer.Option(help="Where to; any fsspec address.")],
    format: Annotated[str, typer.Option(help="parquet or webdataset.")] = "parquet",
    partition: Annotated[
        str, typer.Option(help="Hive folders by method, style or method,style; default: none.")
    ] = "",
    file_size: Annotated[str, typer.Option(help="Size of a file, as written.")] = "256MiB",
    refused: Annotated[
        bool, typer.Option("--refused", help="Of a synthesis: what its gates refused.")
    ] = False,
    storage_options: options.StorageOptions = None,
) -> None:
    """Write a run's pictures and scores as large Parquet files or WebDataset shards."""
    from pipelines.export.job import export_run
    from pipelines.tables.storage import Store

    try:
        size = TypeAdapter(ByteSize).validate_python(file_size)
    except ValidationError:
        raise ValueError(f"file size is {file_size!r}, allowed: e.g. 256MiB") from None
    given = options.storage_options(storage_options)
    source, target = Store(run, given), Store(output, given)
    if not source.exists("run.json"):
        raise ValueError(f"{source.url} holds no run.json, allowed: a folder that a run wrote")
    with progress_display() as progress:
        files = export_run(
            source,
            target,
            format=format,
            partition=[name for name in partition.split(",") if name],
            file_bytes=int(size),
            refused=refused,
            progress=progress,
        )
    rows, written = sum(file.rows for file in files), sum(file.bytes for file in files)
    console.print(
        f"{rows} pictures in {len(files)} files, {ByteSize(written).human_readable()}: "
        f"{target.url}",
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    typer.run(export)
