"""`infinite-id`: every job as a sub-command, over the same functions as `jobs/*.py`."""

from __future__ import annotations

from pipelines.run.session import quiet

quiet()

import typer

from jobs.benchmark import benchmark
from jobs.compare import compare
from jobs.dreambooth import dreambooth
from jobs.export import export
from jobs.manifest import manifest_build, manifest_check
from jobs.plan import plan
from jobs.report import report, status
from jobs.serve import serve
from jobs.synthesize import synthesize
from jobs.train import train

__all__ = ["main"]

app = typer.Typer(
    help="Infinite-ID on Ray: pictures that keep the person and follow the prompt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
manifest = typer.Typer(help="Build and check manifests.", no_args_is_help=True)
app.add_typer(manifest, name="manifest")

for command in (
    benchmark,
    report,
    status,
    compare,
    export,
    plan,
    synthesize,
    train,
    dreambooth,
    serve,
):
    app.command(command.__name__)(command)
manifest.command("build")(manifest_build)
manifest.command("check")(manifest_check)


def main() -> None:
    """Entry point of `infinite-id`."""
    app()
