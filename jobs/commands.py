"""The commands behind `infinite-id ...` and `jobs/*.py`: options in, results shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import options
from jobs.console import RESUME, console, progress_display, show_table, user_errors
from pipelines.manifest import (
    default_prompts,
    default_styles,
    read_manifest,
    write_manifests,
)
from pipelines.settings import BenchmarkConfig, load_config

if TYPE_CHECKING:
    from pipelines.benchmark import RunSummary

__all__ = ["benchmark", "manifest_build", "manifest_check", "report", "status"]

Optional = str | None

_SHORT = {
    "face_found": "face",
    "identity_facenet": "FaceNet",
    "text_score": "text",
    "image_score": "image",
    "style_score": "styled",
}


@user_errors(RESUME)
def benchmark(
    config: options.Config = None,
    identities: options.Identities = None,
    prompts: options.Prompts = None,
    styles: options.Styles = None,
    mixes: options.Mixes = None,
    methods: options.Methods = None,
    metrics: Annotated[Optional, typer.Option(help="Metrics, comma-separated.")] = None,
    seeds: options.Seeds = None,
    limit: Annotated[int | None, typer.Option(help="Most pictures a method.")] = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    output: options.Output = None,
    preset: options.Preset = None,
    tracking_uri: Annotated[
        Optional, typer.Option(help="MLflow; default: sqlite beside the output; none: off.")
    ] = None,
    address: options.Address = None,
    largest_face: options.LargestFace = False,
    resume: options.Resume = False,
    max_rejects: Annotated[
        int | None, typer.Option(help="More rejects make the exit code 1; default: any number.")
    ] = None,
    weights: Annotated[
        Optional, typer.Option(help="Files of baselines: photomaker=FILE,dreambooth=FOLDER.")
    ] = None,
    scenario: Annotated[
        Optional, typer.Option(help="A figure of the comparison, or all; see --list-scenarios.")
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
        "prompts": prompts,
        "styles": styles,
        "mixes": mixes,
        "methods": options.names_of(methods),
        "metrics": options.names_of(metrics),
        "seeds": seeds,
        "limit": limit,
        "num_inference_steps": steps,
        "batch_size": batch_size,
        "output": output,
        "preset": preset,
        "tracking_uri": tracking_uri,
        "address": address,
        "largest_face": largest_face or None,
        "resume": resume or None,
        "max_rejects": max_rejects,
        "weights": _pairs(weights),
    }

    command = options.command_line()
    with progress_display() as progress:
        if scenario is not None:
            if config is not None:
                raise ValueError(f"config is {config!r} beside a scenario, allowed: one of them")
            scenarios.run_scenarios(
                scenario, overrides, _finish, command=command, progress=progress
            )
            return
        settings = load_config(config, **overrides)
        _check_tracking(settings)

        from pipelines.benchmark import run_benchmark

        summary = run_benchmark(settings, command=command, progress=progress)
    _finish(summary, settings)


def _check_tracking(settings: BenchmarkConfig) -> None:
    from jobs.tracking import check_tracking, tracking_address

    check_tracking(tracking_address(settings.tracking_uri, settings.output))


def _finish(summary: RunSummary, settings: BenchmarkConfig) -> None:
    """Measures of the whole set, report, tracking."""
    from jobs.tracking import log_run, tracking_address

    uri = tracking_address(settings.tracking_uri, settings.output)
    if settings.set_pictures:
        from eval.sets import measure_sets

        measure_sets(
            summary.url,
            settings.preset,
            max_pictures=settings.set_pictures,
            options=settings.storage_options,
        )
    _show_report(summary.url, settings.storage_options)
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
    console.print(f"Parquet:  {summary.url}/{{faces,embeddings,requests,images,scores,rejects}}")
    if uri is not None:
        log_run(summary.url, uri, settings.experiment, settings.storage_options)
        console.print(f"MLflow:   {uri}")
    _check_requirements(summary.url, settings)
    refused = sum(summary.rejects.values())
    if settings.max_rejects is not None and refused > settings.max_rejects:
        console.print(f"rejects are {refused}, at most {settings.max_rejects} wanted")
        raise typer.Exit(1)


def _rejects(reasons: Mapping[str, int]) -> str:
    """ "; 3 rejects (2 no_face, 1 refused)", empty without any."""
    if not reasons:
        return ""
    parts = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return f"; {sum(reasons.values())} rejects ({parts})"


def _check_requirements(url: str, settings: BenchmarkConfig) -> None:
    from jobs.requirements import failed_requirements
    from pipelines.storage import Store

    if not settings.requirements:
        return
    record = json.loads(Store(url, settings.storage_options).read_bytes("report/report.json"))
    failed = failed_requirements(record, settings.requirements)
    for sentence in failed:
        console.print(sentence, markup=False)
    if failed:
        raise typer.Exit(1)


def _pairs(text: str | None) -> dict[str, str] | None:
    """name -> value of "name=value,name=value"."""
    if not text:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not name or not value for name, _, value in pairs):
        raise ValueError(f"weights are {text!r}, allowed: NAME=PATH, comma-separated")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _show_report(url: str, storage_options: dict | None = None) -> None:
    from eval.report import write_report
    from pipelines.storage import Store

    paths = write_report(url, options=storage_options)
    record = json.loads(Store(url, storage_options).read_bytes("report/report.json"))
    rows = []
    for method in record["methods"]:
        styles = [row for row in record["styles"] if row["method"] == method["method"]]
        for name, entry in ((method["method"], method), *((f"  {s['style']}", s) for s in styles)):
            row = {"method, by style": name, "n": str(entry["pictures"])}
            # Eighty columns hold these; the report has the rest.
            row.update({_SHORT[k]: _cell(c) for k, c in entry["cells"].items() if k in _SHORT})
            rows.append(row)
    show_table("Means; intervals are in the report", list(rows[0]) if rows else [], rows)
    console.print(f"report:   {paths.html}")


def _cell(cell: dict) -> str:
    return "-" if cell["mean"] is None else f"{cell['mean']:.3f}"


@user_errors()
def report(
    run: Annotated[str, typer.Argument(help="A run folder.")],
) -> None:
    """Write the report of a run again, from its tables."""
    _show_report(run)


@user_errors()
def status(
    run: Annotated[str, typer.Argument(help="A run folder.")],
) -> None:
    """Say how far a running or dead run is."""
    from pipelines.status import run_status

    found = run_status(run)
    units = "?" if found.units is None else found.units
    requests = "?" if found.requests is None else found.requests
    console.print(
        f"{found.state}: {found.people} people, {found.units_done}/{units} units "
        f"({found.share:.0%}) of {requests} pictures, "
        + (f"{found.accepted} of {found.wanted} accepted, " if found.wanted else "")
        + f"{found.rejects} rejects, last word {found.updated}"
    )


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
