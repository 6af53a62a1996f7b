"""DreamBooth LoRAs: `python jobs/dreambooth.py --output FOLDER`, also by `ray job submit`."""

from __future__ import annotations

from pipelines.run.environment import quiet

quiet()

from typing import Annotated

import typer

from infinite_id.baselines.config import DreamBoothConfig
from jobs.console import console, progress_display, user_errors
from jobs.options import (
    Address,
    CheckPeople,
    Identities,
    LargestFace,
    Preset,
    RunLayout,
    Set,
    StorageOptions,
    set_values,
)
from jobs.options import storage_options as read_options
from pipelines.settings import load_config
from pipelines.training.config import OF_A_PICTURE, WITHOUT

__all__ = [
    "dreambooth",
]

Optional = str | None


@user_errors("people who are fitted stay, the same command fits the others")
def dreambooth(
    output: Annotated[str, typer.Option(help="Folder of the LoRAs; all machines must share it.")],
    identities: Identities = None,
    layout: RunLayout = None,
    config: Annotated[
        Optional, typer.Option(help="YAML file of the benchmark; default: none.")
    ] = None,
    preset: Preset = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps per person.")] = 200,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA.")] = 8,
    prior_weight: Annotated[
        float, typer.Option(help="Weight of the prior preservation loss; 0: without.")
    ] = 1.0,
    class_pictures: Annotated[int, typer.Option(help="Made by the base for that loss.")] = 16,
    held_out_photos: Annotated[
        int, typer.Option(help="Last photos of each person that are not trained on.")
    ] = 0,
    largest_face: LargestFace = False,
    check_people: CheckPeople = False,
    address: Address = None,
    storage_options: StorageOptions = None,
    override: Set = None,
) -> None:
    """Fit one DreamBooth LoRA per person, in parallel; those that are there already are skipped."""
    given = {
        "identities": identities,
        "layout": layout,
        "preset": preset,
        "held_out_photos": held_out_photos or None,
        "largest_face": largest_face or None,
        "check_people": check_people or None,
        "address": address,
        "storage_options": read_options(storage_options),
    }
    settings = load_config(config, **{**given, **set_values(override)})
    for name in OF_A_PICTURE:
        value = getattr(settings, name)
        if value not in (None, False):
            raise ValueError(f"{name} is {value!r}, allowed in a training: {WITHOUT}")
    fit = DreamBoothConfig(
        prior_weight=prior_weight, class_pictures=class_pictures, rank=rank, steps=steps
    )
    from pipelines.training.dreambooth import fit_people

    with progress_display() as progress:
        done = fit_people(settings, output, fit, progress=progress)
    for line in done.refused:
        console.print(f"refused  {line}", markup=False)
    for line in done.left_out:
        console.print(f"left out  {line}", markup=False)
    for line in done.warnings:
        console.print(f"warning: {line}", markup=False)
    count = len(done.left_out)
    lost = f"; {count} photo{'s' if count > 1 else ''} left out" if count else ""
    console.print(
        f"{done.fitted} people fitted, {done.present} were there, {len(done.refused)} refused, "
        f"in {done.seconds:.0f} s: {output}{lost}",
        markup=False,
    )


if __name__ == "__main__":
    typer.run(dreambooth)
