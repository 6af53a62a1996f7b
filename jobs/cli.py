"""`infinite-id`: every job as a sub-command, over the same functions as `jobs/*.py`."""

from __future__ import annotations

from pipelines.session import quiet

quiet()

import typer  # noqa: E402

from jobs import commands, comparison, exporting, planning, serving, synthesis  # noqa: E402

__all__ = ["main"]

app = typer.Typer(
    help="Infinite-ID on Ray: pictures that keep the person and follow the prompt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
manifest = typer.Typer(help="Build and check manifests.", no_args_is_help=True)
app.add_typer(manifest, name="manifest")

app.command("benchmark")(commands.benchmark)
app.command("report")(commands.report)
app.command("export")(exporting.export)
app.command("compare")(comparison.compare)
app.command("dreambooth")(comparison.dreambooth)
app.command("plan")(planning.plan)
app.command("synthesize")(synthesis.synthesize)
app.command("serve")(serving.serve)
app.command("status")(commands.status)
manifest.command("build")(commands.manifest_build)
manifest.command("check")(commands.manifest_check)


def main() -> None:
    """Entry point of `infinite-id`."""
    app()
