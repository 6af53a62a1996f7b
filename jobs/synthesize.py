"""Data sets of accepted pictures: `python jobs/synthesize.py [options]`, also by Ray jobs."""

from __future__ import annotations

from pipelines.run.environment import quiet

quiet()

from typing import Annotated, Any

import typer

from jobs import options
from jobs.console import RESUME, console, progress_display, show_table, user_errors
from pipelines.settings import load_settings
from pipelines.synthesis.config import SynthesisConfig

__all__ = [
    "synthesize",
]

Optional = str | None


@user_errors(RESUME)
def synthesize(
    config: options.Config = None,
    identities: options.Identities = None,
    layout: options.RunLayout = None,
    prompts: options.Prompts = None,
    styles: options.Styles = None,
    method: Annotated[Optional, typer.Option(help="One method; see infinite-id methods.")] = None,
    per_person: Annotated[int | None, typer.Option(help="Pictures wanted of each person.")] = None,
    redraws: Annotated[
        int | None, typer.Option(help="New seeds for a refused picture, at most.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The first seed.")] = None,
    gates: Annotated[
        Optional,
        typer.Option(
            help="E.g. identity=0.5,text=0.2,other_identity=none; default: see docs/data_sets.md."
        ),
    ] = None,
    references: Annotated[
        Optional,
        typer.Option(
            help="People who must not appear: photos or a references table; default: none."
        ),
    ] = None,
    watermark: Annotated[
        Optional,
        typer.Option(help="Invisible text in each picture of 256 px or more; default: none."),
    ] = None,
    steps: options.Steps = None,
    batch_size: options.BatchSize = None,
    output: options.Output = None,
    preset: options.Preset = None,
    profile: options.Profile = None,
    address: options.Address = None,
    largest_face: options.LargestFace = False,
    check_people: options.CheckPeople = False,
    resume: options.Resume = False,
    storage_options: options.StorageOptions = None,
    allow_untrained: options.AllowUntrained = False,
    override: options.Set = None,
) -> None:
    """Generate until every person has the wanted number of accepted pictures."""
    given = {
        "identities": identities,
        "layout": layout,
        "prompts": prompts,
        "styles": styles,
        "method": method,
        "per_person": per_person,
        "redraws": redraws,
        "seed": seed,
        "gates": _gates(gates),
        "references": references,
        "watermark": watermark,
        "num_inference_steps": steps,
        "batch_size": batch_size,
        "output": output,
        "preset": preset,
        "profile": profile,
        "address": address,
        "largest_face": largest_face or None,
        "check_people": check_people or None,
        "resume": resume or None,
        "storage_options": options.storage_options(storage_options),
        "allow_untrained": allow_untrained or None,
    }
    settings = load_settings(SynthesisConfig, config, **{**given, **options.set_values(override)})
    from pipelines.synthesis.job import run_synthesis

    with progress_display() as progress:
        summary = run_synthesis(settings, command=options.command_line(), progress=progress)
    report = summary.report
    rows = [
        {"reason": reason, "refused": number, "of drawn": f"{number / max(report.drawn, 1):.1%}"}
        for reason, number in report.reasons.items()
    ]
    if rows:
        show_table("Refused", ["reason", "refused", "of drawn"], rows)
    if report.complete < report.people:
        fewest = [{"person": key, "accepted": number} for key, number in report.fewest]
        show_table(f"Fewest, of {settings.per_person} wanted", ["person", "accepted"], fewest)
    if summary.untrained:
        console.print("untrained weights: pictures are noise")
    share = report.accepted / report.wanted if report.wanted else 1.0
    console.print(
        f"{report.accepted} of {report.wanted} pictures accepted ({share:.0%}), {report.drawn} "
        f"drawn in {len(report.rounds)} rounds, {report.complete} of {report.people} people "
        f"complete, in {summary.seconds:.0f} s"
    )
    console.print(f"report:   {summary.url}/report/{{people/,synthesis.json}}", markup=False)
    console.print(f"next:     infinite-id export {summary.url} --output FOLDER", markup=False)
    if share < settings.least_accepted:
        console.print(f"accepted share is {share:.3f}, at least {settings.least_accepted:g} wanted")
        raise typer.Exit(1)


def _gates(text: str | None) -> dict[str, Any] | None:
    """Settings of "name=value,name=none"; values are read as YAML, none is null."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not name.strip() or not value.strip() for name, _, value in pairs):
        raise ValueError(f"gates are {text!r}, allowed: NAME=VALUE, comma-separated")
    return {
        name.strip(): None
        if value.strip() == "none"
        else options.yaml_value(value, f"gate {name.strip()}")
        for name, _, value in pairs
    }


if __name__ == "__main__":
    typer.run(synthesize)
