"""`infinite-id`: every job as a sub-command, over the same functions as `jobs/*.py`."""

from __future__ import annotations

import importlib
from collections import UserDict
from importlib.metadata import version
from typing import Annotated, Any

from pipelines.run.environment import quiet

quiet()

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["EXAMPLES", "main"]

_COMMANDS = {
    "benchmark": "jobs.benchmark:benchmark",
    "check": "jobs.check:check",
    "presets": "jobs.presets:presets",
    "report": "jobs.report:report",
    "status": "jobs.report:status",
    "compare": "jobs.compare:compare",
    "export": "jobs.export:export",
    "plan": "jobs.plan:plan",
    "synthesize": "jobs.synthesize:synthesize",
    "train": "jobs.train:train",
    "dreambooth": "jobs.dreambooth:dreambooth",
    "serve": "jobs.serve:serve",
    "methods": "jobs.lists:methods",
    "metrics": "jobs.lists:metrics",
    "styles": "jobs.lists:styles",
}
_MANIFEST = {"build": "jobs.manifest:manifest_build", "check": "jobs.manifest:manifest_check"}
_RUN = "pipelines.settings:BenchmarkConfig"
# Whose defaults count where an option is not given.
_SETTINGS = {
    "benchmark": _RUN,
    "plan": _RUN,
    "dreambooth": _RUN,
    "check": _RUN,
    "synthesize": "pipelines.synthesis.config:SynthesisConfig",
    "train": "pipelines.training.config:TrainingConfig",
    "serve": "pipelines.settings:ModelConfig",
}


def _object(place: str) -> Any:
    """What "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class _Command(TyperCommand):
    """A command whose help tells the defaults of its settings, which its options have not."""

    def __init__(self, name: str | None, **values: Any) -> None:
        super().__init__(name, **values)
        place = _SETTINGS.get(name or "")
        fields = {} if place is None else _object(place).model_fields
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


class _Loading(UserDict[str, Any]):
    """Commands by name, loaded when they are first asked for: a wrong word should be told at once,
    and what all of them import takes a second."""

    def __init__(self, places: dict[str, str], before: str, ready: dict[str, Any]) -> None:
        super().__init__({**places, **ready})
        self._before = before

    def __getitem__(self, name: str) -> Any:
        if isinstance(self.data[name], str):
            one = typer.Typer(add_completion=False)
            epilog = f"Example: {EXAMPLES[self._before + name]}"
            one.command(name, cls=_Command, epilog=epilog)(_object(self.data[name]))
            self.data[name] = typer.main.get_command(one)
        return self.data[name]


class _Jobs(TyperGroup):
    def __init__(self, *, commands: Any = None, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = _Loading(_COMMANDS, "", dict(commands))


class _Manifests(TyperGroup):
    def __init__(self, *, commands: Any = None, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = _Loading(_MANIFEST, "manifest ", {})


app = typer.Typer(
    cls=_Jobs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
manifest = typer.Typer(cls=_Manifests, help="Build and check manifests.", no_args_is_help=True)
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
    "compare": "infinite-id compare runs/old runs/new --fail identity_facenet=0.02",
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


def main() -> None:
    """Entry point of `infinite-id`."""
    app()


if __name__ == "__main__":
    main()
