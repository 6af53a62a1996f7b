"""What a run will take, before renting anything: `python jobs/plan.py --gpus 8 ...`."""

from __future__ import annotations

from pipelines.run.environment import quiet

quiet()

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs import options
from jobs.console import show_table, user_errors
from pipelines.plan.estimate import Rates, estimate, measured_rates
from pipelines.plan.inputs import load_manifests
from pipelines.settings import load_config
from pipelines.tables.choices import parse_seeds

__all__ = [
    "plan",
]

Optional = str | None


@user_errors()
def plan(
    gpus: Annotated[int, typer.Option(help="Of the cluster, one generation actor each.")] = 1,
    config: options.Config = None,
    identities: options.Identities = None,
    layout: options.RunLayout = None,
    prompts: options.Prompts = None,
    styles: options.Styles = None,
    mixes: options.Mixes = None,
    groups: options.Groups = None,
    methods: options.Methods = None,
    seeds: options.Seeds = None,
    preset: options.Preset = None,
    override: options.Set = None,
    per_person: Annotated[
        int | None,
        typer.Option(
            help="Of a synthesis: pictures wanted of each person; default: a benchmark's."
        ),
    ] = None,
    acceptance: Annotated[
        float,
        typer.Option(
            help="Of a synthesis: share of draws that pass the gates, above 0, at most 1."
        ),
    ] = 1.0,
    images_per_second: Annotated[
        float | None, typer.Option(help="Of one GPU; needed without --from-run.")
    ] = None,
    image_kb: Annotated[
        float | None, typer.Option(help="KB of an encoded picture; needed without --from-run.")
    ] = None,
    from_run: Annotated[
        Optional,
        typer.Option(
            help="An earlier run: takes both figures from what it measured; default: none."
        ),
    ] = None,
    gpu_price: Annotated[float, typer.Option(help="Of a GPU hour, in any currency.")] = 0.0,
    storage_price: Annotated[
        float, typer.Option(help="Of a GB and month, in the same currency.")
    ] = 0.0,
    storage_options: options.StorageOptions = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will take: rows, pictures, GPU hours, storage, cost."""
    given = {
        "identities": identities,
        "layout": layout,
        "prompts": prompts,
        "styles": styles,
        "mixes": mixes,
        "groups": groups,
        "methods": options.names_of(methods),
        "seeds": seeds,
        "preset": preset,
        "storage_options": options.storage_options(storage_options),
    }
    settings = load_config(config, **{**given, **options.set_values(override)})
    rates = _rates(images_per_second, image_kb, from_run, settings.storage_options)
    manifests, family = load_manifests(settings), settings.family()
    people = manifests.shown
    texts = manifests.prompts.num_rows * manifests.styles.num_rows
    if per_person is not None and per_person < 1:
        raise ValueError(f"per_person is {per_person}, allowed: 1 or more")
    wanted = people * texts * len(parse_seeds(settings.seeds)) * len(settings.methods)
    if settings.limit is not None:
        wanted = min(wanted, settings.limit * len(settings.methods))
    if per_person is not None:
        wanted = people * per_person
    encoders = family.encoders
    found = estimate(
        people=people,
        texts=texts,
        wanted=wanted,
        rates=rates,
        gpus=gpus,
        acceptance=acceptance,
        embedding_bytes=2 * encoders.clip_tokens * encoders.clip_width + 4 * encoders.face_width,
        gpu_price=gpu_price,
        storage_price=storage_price,
    )
    if as_json:
        print(json.dumps({"gpus": gpus, **asdict(rates), **asdict(found)}, indent=1))
        return
    rows = [
        ("people (mixes, groups included)", f"{found.people:,}"),
        ("prompts x styles", f"{found.texts:,}"),
        ("pictures wanted", f"{found.wanted:,}"),
        ("pictures generated", f"{found.draws:,}"),
        ("pictures/s of one GPU", f"{rates.images_per_second:.3g}"),
        ("GPU hours", f"{found.gpu_hours:,.1f}"),
        (f"hours on {gpus} GPUs", f"{found.hours:,.1f}"),
        ("storage, GB", f"{found.storage_gb:,.2f}"),
        ("cost of GPUs", f"{found.gpu_cost:,.2f}"),
        ("cost of storage per month", f"{found.storage_cost:,.2f}"),
    ]
    title = f"{settings.preset}, {family.width} x {family.height} px, {gpus} GPUs"
    show_table(title, ["what", "value"], [{"what": k, "value": v} for k, v in rows])


def _rates(
    images_per_second: float | None,
    image_kb: float | None,
    from_run: str | None,
    storage_options: Mapping[str, Any],
) -> Rates:
    if from_run is not None:
        measured = measured_rates(from_run, storage_options)
        return Rates(
            images_per_second or measured.images_per_second,
            1000 * image_kb if image_kb else measured.bytes_per_image,
        )
    if images_per_second is None or image_kb is None:
        raise ValueError(
            "the speed and size of pictures are not given, allowed: --images-per-second and "
            "--image-kb, or --from-run with an earlier run"
        )
    return Rates(images_per_second, 1000 * image_kb)


if __name__ == "__main__":
    typer.run(plan)
