"""`infinite-id`: every job as a sub-command, over the same functions as `jobs/*.py`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from pipelines.run.session import quiet

quiet()

import typer

from jobs.benchmark import benchmark
from jobs.check import check
from jobs.compare import compare
from jobs.dreambooth import dreambooth
from jobs.export import export
from jobs.lists import methods, metrics, styles
from jobs.manifest import manifest_build, manifest_check
from jobs.plan import plan
from jobs.presets import presets
from jobs.report import report, status
from jobs.serve import serve
from jobs.synthesize import synthesize
from jobs.train import train

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
manifest = typer.Typer(help="Build and check manifests.", no_args_is_help=True)
app.add_typer(manifest, name="manifest")


def _show_version(asked: bool) -> None:
    if asked:
        print(f"infinite-id {version('infinite-id-ray')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Infinite-ID on Ray: pictures that keep the person and follow the prompt."""


for command in (
    benchmark,
    check,
    presets,
    report,
    status,
    compare,
    export,
    plan,
    synthesize,
    train,
    dreambooth,
    serve,
    methods,
    metrics,
    styles,
):
    app.command(command.__name__)(command)
manifest.command("build")(manifest_build)
manifest.command("check")(manifest_check)


def main() -> None:
    """Entry point of `infinite-id`."""
    app()
