"""`infinite-id`: every job as a sub-command, over the same functions as `jobs/*.py`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

from pipelines.run.session import quiet

quiet()

import typer
from typer.core import TyperCommand

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
from pipelines.settings import BenchmarkConfig, ModelConfig
from pipelines.synthesis.config import SynthesisConfig
from pipelines.training.config import TrainingConfig

__all__ = ["EXAMPLES", "main"]

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


# What a user types first; every one is parsed in the tests.
EXAMPLES = {
    "benchmark": "infinite-id benchmark --identities photos --limit 20 --output runs/first",
    "check": "infinite-id check run.yaml --for benchmark --output runs/first",
    "presets": "infinite-id presets",
    "report": "infinite-id report runs/first",
    "status": "infinite-id status runs/first",
    "compare": "infinite-id compare runs/old runs/new --fail identity_margin=0.02",
    "export": "infinite-id export runs/first --output sets/first --format webdataset",
    "plan": "infinite-id plan --identities photos --per-person 100 --images-per-second 0.8 "
    "--image-kb 1500",
    "synthesize": "infinite-id synthesize --identities photos --per-person 20 --output runs/set",
    "train": "infinite-id train --data pairs.parquet --output runs/adapter --steps 1000",
    "dreambooth": "infinite-id dreambooth --identities photos --output loras",
    "serve": "infinite-id serve --preset pocket --port 8000",
    "methods": "infinite-id methods",
    "metrics": "infinite-id metrics",
    "styles": "infinite-id styles",
    "manifest build": "infinite-id manifest build --photos photos --output manifests",
    "manifest check": "infinite-id manifest check manifests/identities.parquet",
}


# Whose defaults count where an option is not given.
_SETTINGS: dict[str, type[ModelConfig]] = {
    "benchmark": BenchmarkConfig,
    "plan": BenchmarkConfig,
    "dreambooth": BenchmarkConfig,
    "check": BenchmarkConfig,
    "synthesize": SynthesisConfig,
    "train": TrainingConfig,
    "serve": ModelConfig,
}


class _Command(TyperCommand):
    """A command whose help tells the defaults of its settings, which its options have not."""

    def __init__(self, name: str | None, **values: Any) -> None:
        super().__init__(name, **values)
        settings = _SETTINGS.get(name or "")
        fields = {} if settings is None else settings.model_fields
        for param in self.params:
            field = fields.get(str(param.name))
            told = getattr(param, "help", None)
            if field is None or told is None or param.default is not None or "default:" in told:
                continue
            value = field.get_default(call_default_factory=True)
            if isinstance(value, list):
                value = ", ".join(value)
            if isinstance(value, str | int | float):
                setattr(param, "help", f"{told.removesuffix('.')}; default: {value}.")  # noqa: B010


def _add(to: typer.Typer, name: str, command: Callable[..., None], group: str = "") -> None:
    to.command(name, cls=_Command, epilog=f"Example: {EXAMPLES[group + name]}")(command)


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
    _add(app, command.__name__, command)
_add(manifest, "build", manifest_build, "manifest ")
_add(manifest, "check", manifest_check, "manifest ")


def main() -> None:
    """Entry point of `infinite-id`."""
    app()


if __name__ == "__main__":
    main()
