"""The main job: `python jobs/benchmark.py [options]`, also by `ray job submit`."""

from __future__ import annotations

from pipelines.run.environment import quiet

quiet()

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import options
from jobs.console import RESUME, console, progress_display, user_errors
from jobs.report import show_report
from pipelines.settings import BenchmarkConfig, Requirement, load_config

if TYPE_CHECKING:
    from pipelines.benchmark import RunSummary

__all__ = [
    "benchmark",
    "failed_requirements",
]

Optional = str | None


@user_errors(RESUME)
def benchmark(
    config: options.Config = None,
    identities: options.Identities = None,
    layout: options.RunLayout = None,
    prompts: options.Prompts = None,
    styles: options.Styles = None,
    mixes: options.Mixes = None,
    groups: options.Groups = None,
    methods: options.Methods = None,
    metrics: Annotated[
        Optional, typer.Option(help="Metrics, comma-separated; default: see infinite-id metrics.")
    ] = None,
    seeds: options.Seeds = None,
    limit: Annotated[
        int | None, typer.Option(help="Most pictures per method; default: all.")
    ] = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    output: options.Output = None,
    preset: options.Preset = None,
    profile: options.Profile = None,
    tracking_uri: options.TrackingUri = None,
    require_tracking: Annotated[
        bool, typer.Option("--require-tracking", help="Exit code 1 where MLflow lacks the run.")
    ] = False,
    address: options.Address = None,
    largest_face: options.LargestFace = False,
    check_people: options.CheckPeople = False,
    resume: options.Resume = False,
    storage_options: options.StorageOptions = None,
    max_rejects: Annotated[
        int | None, typer.Option(help="More rejects make the exit code 1; default: any number.")
    ] = None,
    weights: Annotated[
        Optional,
        typer.Option(help="Of methods: photomaker=FILE,dreambooth=FOLDER; default: the preset's."),
    ] = None,
    allow_untrained: options.AllowUntrained = False,
    override: options.Set = None,
    scenario: Annotated[
        Optional,
        typer.Option(
            help="A figure of the comparison, or all; see --list-scenarios; default: none."
        ),
    ] = None,
    source: Annotated[
        Optional,
        typer.Option(
            "--from",
            help="A benchmark of the field: multiid:FOLDER (MultiID-Bench, one person), "
            "multiid-groups:FOLDER (two to four), or references:FOLDER (photos and prompts.txt); "
            "default: none.",
        ),
    ] = None,
    judges: Annotated[
        Optional,
        typer.Option(
            help="More judges, NAME=ADDRESS, comma-separated: arcface, adaface, aesthetic, hpsv2, "
            "vlm; default: none."
        ),
    ] = None,
    list_scenarios: Annotated[
        bool, typer.Option("--list-scenarios", help="List the scenarios with a line each.")
    ] = False,
) -> None:
    """Generate for identities x prompts x styles x methods, score, report, log to MLflow."""
    from jobs import scenarios

    if list_scenarios:
        scenarios.list_scenarios()
        return
    overrides: dict[str, Any] = {
        "identities": identities,
        "layout": layout,
        "prompts": prompts,
        "styles": styles,
        "mixes": mixes,
        "groups": groups,
        "methods": options.names_of(methods),
        "metrics": options.names_of(metrics),
        "seeds": seeds,
        "limit": limit,
        "num_inference_steps": steps,
        "batch_size": batch_size,
        "output": output,
        "preset": preset,
        "profile": profile,
        "tracking_uri": tracking_uri,
        "address": address,
        "largest_face": largest_face or None,
        "check_people": check_people or None,
        "resume": resume or None,
        "storage_options": options.storage_options(storage_options),
        "max_rejects": max_rejects,
        "weights": _pairs(weights, "weights"),
        "judges": _pairs(judges, "judges"),
        "allow_untrained": allow_untrained or None,
        **options.set_values(override),
    }

    command = options.command_line()
    finish = partial(_finish, require_tracking=require_tracking)
    with progress_display() as progress:
        if scenario is not None:
            if config is not None:
                raise ValueError(f"config is {config!r} beside a scenario, allowed: one of them")
            if source is not None:
                raise ValueError("--from is given beside --scenario, allowed: one of them")
            scenarios.run_scenarios(scenario, overrides, finish, command=command, progress=progress)
            return
        if source is not None:
            from jobs.field import run_field_benchmark

            if config is not None:
                raise ValueError(f"config is {config!r} beside --from, allowed: one of them")
            run_field_benchmark(
                source,
                overrides,
                finish,
                check=_check_tracking,
                command=command,
                progress=progress,
            )
            return
        settings = load_config(config, **overrides)
        _check_tracking(settings)
        _tell_unused_judges(settings)

        from pipelines.benchmark import run_benchmark

        summary = run_benchmark(settings, command=command, progress=progress)
    finish(summary, settings)


def _tell_unused_judges(settings: BenchmarkConfig) -> None:
    from eval.metrics import needs_of

    needed = settings.given_judges().required(needs_of(settings.metrics, settings.judges))
    for name in settings.judges:
        if name not in needed:
            console.print(f"judge {name} is given, and no metric asks for it", markup=False)


def _check_tracking(settings: BenchmarkConfig) -> None:
    from jobs.tracking import check_tracking, experiment_name, tracking_address

    uri = tracking_address(settings.tracking_uri, settings.output)
    check_tracking(uri, experiment_name(settings.experiment))


def _finish(
    summary: RunSummary, settings: BenchmarkConfig, *, require_tracking: bool = False
) -> None:
    """Measures of the whole set, report, tracking."""
    from jobs.tracking import send_run, tracking_address

    uri = tracking_address(settings.tracking_uri, settings.output)
    if settings.set_pictures:
        from eval.sets import measure_sets
        from pipelines.plan.weights import local_judges

        measure_sets(
            settings.output,
            settings.preset,
            max_pictures=settings.set_pictures,
            options=settings.storage_options,
            scorer=_local(settings.scorer, settings.storage_options),
            judges=local_judges(settings.given_judges(), settings.storage_options),
        )
    show_report(settings.output, settings.storage_options)
    if summary.untrained:
        console.print("untrained weights: pictures are noise")
    first = summary.seconds_to_first_picture
    console.print(
        f"{summary.pictures} pictures of {summary.people} people in {summary.seconds:.0f} s"
        + (f", the first after {first:.0f} s" if first else "")
        + _rejects(summary.rejects)
    )
    if summary.lost_tries:
        again = ", ".join(f"{number} of {stage}" for stage, number in summary.lost_tries.items())
        console.print(f"units begun again after their process died: {again}")
    tables = "{faces,embeddings,requests,images,scores,rejects}"
    console.print(f"Parquet:  {summary.url}/{tables}", markup=False)
    if uri is not None:
        send_run(
            settings.output,
            uri,
            settings.experiment,
            settings.storage_options,
            require=require_tracking,
        )
    _check_requirements(settings)
    refused = sum(summary.rejects.values())
    if settings.max_rejects is not None and refused > settings.max_rejects:
        console.print(f"rejects are {refused}, at most {settings.max_rejects} wanted")
        raise typer.Exit(1)


def _local(address: str | None, options: Mapping[str, Any]) -> str | None:
    from pipelines.plan.weights import local_weights

    return None if address is None else local_weights(address, options)


def _rejects(reasons: Mapping[str, int]) -> str:
    """ "; 3 rejects (2 no_face, 1 refused)", empty without any."""
    if not reasons:
        return ""
    parts = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return f"; {sum(reasons.values())} rejects ({parts})"


def _check_requirements(settings: BenchmarkConfig) -> None:
    from jobs.benchmark import failed_requirements
    from pipelines.tables.storage import Store

    if not settings.requirements:
        return
    store = Store(settings.output, settings.storage_options)
    record = json.loads(store.read_bytes("report/report.json"))
    failed = failed_requirements(record, settings.requirements)
    for sentence in failed:
        console.print(sentence, markup=False)
    if failed:
        raise typer.Exit(1)


def _pairs(text: str | None, what: str) -> dict[str, str] | None:
    """name -> value of "name=value,name=value"."""
    if not text:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not name or not value for name, _, value in pairs):
        raise ValueError(f"{what} are {text!r}, allowed: NAME=ADDRESS, comma-separated")
    return {name.strip(): value.strip() for name, _, value in pairs}


def failed_requirements(
    report: Mapping[str, Any], requirements: Sequence[Requirement]
) -> list[str]:
    """One sentence a requirement that the run does not reach.

    Args:
        report: report.json of `eval.reports.report`.
        requirements: of the run's configuration.
    """
    failed = []
    for wanted in requirements:
        rows = report["styles"] if wanted.style else report["methods"]
        what = f"{wanted.metric} of {wanted.method}" + (f" in {wanted.style}" * bool(wanted.style))
        cells = [
            row["cells"].get(wanted.metric)
            for row in rows
            if row["method"] == wanted.method and row["style"] == wanted.style
        ]
        mean = cells[0]["mean"] if cells and cells[0] else None
        if mean is None:
            failed.append(f"requirement: {what} was not measured")
            continue
        if wanted.at_least is not None and mean < wanted.at_least:
            failed.append(f"requirement: {what} is {mean:.4g}, at least {wanted.at_least:g} wanted")
        if wanted.at_most is not None and mean > wanted.at_most:
            failed.append(f"requirement: {what} is {mean:.4g}, at most {wanted.at_most:g} wanted")
    return failed


if __name__ == "__main__":
    typer.run(benchmark)
