"""A synthesis, top to bottom: people -> known people -> rounds of pictures and verdicts -> report.

`run_synthesis` is the whole composition. A round draws a picture for every open slot, measures
it, and decides; the next round draws what was refused with new seeds. What is open is read from
the committed verdicts, so a killed run goes on where it was and ends as an undisturbed one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.parquet as pq

from infinite_id.config import Preset
from pipelines.plan.fit import check_fit
from pipelines.plan.inputs import (
    embedded_subjects,
    load_manifests,
    picture_settings,
    styled_texts,
)
from pipelines.plan.made_from import MadeFrom, deciding_settings
from pipelines.plan.weights import local_preset, run_weights
from pipelines.run.counters import count_rejects
from pipelines.run.open import OpenRun, open_run
from pipelines.run.units import committed_units
from pipelines.stages.device import torch_device
from pipelines.stages.phases import generation_stage, people_stages
from pipelines.stages.ray_data import stream_units
from pipelines.stages.stage import Progress, Stage, check_stages, report_stages
from pipelines.stages.waiting import await_resources
from pipelines.stages.watermark import check_watermark
from pipelines.synthesis.actors import MeasuringActor, ReferenceActor, VerdictActor
from pipelines.synthesis.config import SynthesisConfig
from pipelines.synthesis.report import SynthesisReport, write_synthesis_report
from pipelines.synthesis.slots import RoundPlan, SlotPlan
from pipelines.tables.manifest import Manifests, read_manifest
from pipelines.tables.people import people_notes
from pipelines.tables.schemas import version_of
from pipelines.tables.storage import Store

__all__ = ["SynthesisSummary", "run_synthesis"]

Places = list[tuple[Store, str]]
Cluster = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SynthesisSummary:
    """What a synthesis did.

    Attributes:
        url: of the run folder.
        untrained: whether some weights were untrained, so that pictures are noise.
        report: what was accepted and why the rest was not.
        seconds: of this invocation.
    """

    url: str
    untrained: bool
    report: SynthesisReport
    seconds: float


def run_synthesis(
    config: SynthesisConfig,
    *,
    command: str = "",
    progress: Progress = lambda phase, done, total: None,
) -> SynthesisSummary:
    """Runs a synthesis.

    Args:
        config: what to do.
        command: the command line, for the record.
        progress: told after each unit.

    Raises:
        ValueError: wrong input; one sentence. StorageError (a ValueError): a place that cannot be
            read or written.
        ray.exceptions.RayError: the run failed; what is committed stays, `resume` goes on.
    """
    begin = time.perf_counter()
    family = config.family()
    if config.watermark is not None:
        check_watermark(config.watermark, family.height, family.width)
    manifests = load_manifests(config)
    others, digest = _others(config)
    weights = run_weights(family, [config.method], config.storage_options)
    check_fit(local_preset(family, config.storage_options), [config.method])
    settings = deciding_settings(config, family, weights)

    def people_chain(manifests: Manifests | None, store: Store) -> tuple[list[Stage], list]:
        stages, slices = people_stages(config, family, manifests, store)
        if config.gates.other_identity is not None:
            stages.append(_reference_stage(config, store))
        return stages, slices

    def check(cluster: Cluster, limits: Cluster, store: Store) -> None:
        check_stages(people_chain(None, store)[0], ["unit"], limits)
        chain = _picture_stages(config, family, None, store, [], cluster, limits)
        check_stages(chain, ["unit"], limits)

    with open_run(
        config,
        family,
        weights,
        check=check,
        made_from=MadeFrom(settings, manifests, others, config.storage_options),
        digests={"references": digest},
        command=command,
        job="synthesis",
        notes=manifests.notes,
    ) as run:
        people, slices = people_chain(manifests, run.store)
        last = people[-1].name
        await_resources(people, config.resources.wait_seconds, run.limits)
        with run.timings.measure("faces and embeddings") as phase:
            for step in stream_units(people, run.store, last, range(len(slices))):
                run.lease.check()
                phase.rows += sum(step.rows["people"].to_pylist())
                report_stages(progress, step.given, len(slices))
        places = _other_places(config, family, manifests, others, run.store, progress)

        slots = SlotPlan(
            method=(config.method, weights.revisions[config.method]),
            texts=styled_texts(manifests, config.storage_options, run.store),
            subjects=embedded_subjects(manifests, run.store, count_rejects),
            per_person=config.per_person,
            seed=config.seed,
            settings=picture_settings(family),
            unit_size=config.batch_size,
            rounds=1 + config.redraws,
        )
        run.folder.claim("people or requests", slots.digest)
        run.folder.update(notes=[*manifests.notes, *people_notes(run.store)])
        units, requests = 0, 0
        for number in range(slots.rounds):
            plan = RoundPlan(slots, run.store, number, units)
            if not plan.units:
                break
            units, requests = plan.units.stop, requests + len(plan)
            run.folder.update(
                plan={"requests": requests, "units": units, "wanted": slots.wanted},
                rounds={"now": number + 1, "most": slots.rounds},
            )
            _draw(config, family, plan, run, places, progress)
            _decide(config, plan, run, progress)
    report = write_synthesis_report(run.store, slots)
    summary = SynthesisSummary(
        run.store.url, weights.untrained, report, time.perf_counter() - begin
    )
    run.folder.update(
        status="done",
        timings=run.timings.record,
        counts={
            "people": len(slots.subjects),
            "wanted": report.wanted,
            "accepted": report.accepted,
            "drawn": report.drawn,
            "refused": report.reasons,
        },
        seconds=summary.seconds,
    )
    return summary


def _draw(
    config: SynthesisConfig,
    family: Preset,
    plan: RoundPlan,
    run: OpenRun,
    places: Places,
    progress: Progress,
) -> None:
    """Makes and measures the pictures of a round."""
    stages = _picture_stages(config, family, plan, run.store, places, run.cluster, run.limits)
    await_resources(stages, config.resources.wait_seconds, run.limits)
    there = committed_units(run.store, "scores")
    finished = sum(plan.unit_rows(unit) for unit in plan.units if unit in there)
    with run.timings.measure("images and scores") as phase:
        for step in stream_units(stages, run.store, "scores", plan.units):
            run.lease.check()
            rows = step.rows
            phase.rows += sum(rows["pictures"].to_pylist())
            run.timings.add("images, in the actors", rows, "generate_seconds")
            run.timings.add("scores, in the actors", rows, "score_seconds")
            finished += sum(plan.unit_rows(unit) for unit in rows["unit"].to_pylist())
            made = max(finished, len(plan) * step.given["images"] // len(plan.units))
            done = {"images": made, "scores": finished}
            report_stages(progress, done, len(plan), suffix=f" {plan.number + 1}")


def _decide(config: SynthesisConfig, plan: RoundPlan, run: OpenRun, progress: Progress) -> None:
    """Accepts or refuses the pictures of a round."""
    stage = Stage(
        "verdicts",
        VerdictActor,
        {"store": run.store, "plan": plan, "gates": config.gates},
        needs={"unit": "number of the verdicts file"},
        gives=("unit", "accepted", "drawn"),
        concurrency=config.resources.scoring_actors,
        num_cpus=config.resources.scoring_cpus,
    )
    numbers = [plan.slots.verdict(block, plan.number) for block in range(plan.slots.blocks)]
    with run.timings.measure("verdicts") as phase:
        for step in stream_units([stage], run.store, "verdicts", numbers):
            run.lease.check()
            phase.rows += sum(step.rows["drawn"].to_pylist())
            report_stages(progress, step.given, len(numbers), suffix=f" {plan.number + 1}")


def _picture_stages(
    config: SynthesisConfig,
    family: Preset,
    plan: RoundPlan | None,
    store: Store,
    places: Places,
    cluster: Cluster,
    limits: Cluster,
) -> list[Stage]:
    resources = config.resources
    return [
        generation_stage(
            config, family, plan, store, cluster, limits=limits, watermark=config.watermark
        ),
        Stage(
            "scores",
            MeasuringActor,
            {
                "store": store,
                "plan": plan,
                "gates": config.gates,
                "preset_name": family.name,
                "references": places,
                "device": torch_device(resources.scoring_gpus),
                "scorer": config.scorer,
            },
            needs={"unit": "number of the unit", "image": "the encoded picture"},
            gives=("unit", "pictures", "generate_seconds", "score_seconds"),
            concurrency=resources.scoring_actors,
            num_cpus=resources.scoring_cpus,
            num_gpus=resources.scoring_gpus,
        ),
    ]


def _reference_stage(config: SynthesisConfig, store: Store) -> Stage:
    return Stage(
        "references",
        ReferenceActor,
        {"store": store},
        needs={"unit": "number of the unit"},
        gives=("unit", "people"),
        concurrency=config.resources.embedding_actors,
        num_cpus=config.resources.embedding_cpus,
    )


def _others(config: SynthesisConfig) -> tuple[Manifests | None, str]:
    """Photos of the people of `references`, None where it is a table or not given; what a resumed
    run must have again: of photos no more than that they are some, `MadeFrom` compares them."""
    if config.references is None or config.gates.other_identity is None:
        return None, "none"
    store = Store(config.references, config.storage_options)
    names = store.names("", ".parquet") if not store.is_file() else []
    digest = hashlib.blake2b(digest_size=16)
    if names:
        with store.fs.open(store.path(names[0]), "rb") as file:
            found = version_of(pq.read_schema(file))
        if found is None or found[0] != "references":
            raise ValueError(
                f"references {store.url} hold the table {found and found[0]!r}, allowed: the "
                "references folder of a synthesis, or a folder or manifest of photos"
            )
        for name in names:
            digest.update(store.read_bytes(name))
        return None, digest.hexdigest()
    table = read_manifest(
        "identities", config.references, config.storage_options, layout=config.layout
    )
    own = load_manifests(config)
    return Manifests(table, own.prompts, own.styles, own.mixes), "photos"


def _other_places(
    config: SynthesisConfig,
    family: Preset,
    manifests: Manifests,
    others: Manifests | None,
    store: Store,
    progress: Progress,
) -> Places:
    """Where the `references` tables lie; embeds the photos of other people first."""
    if config.gates.other_identity is None:
        return []
    places = [(store, "references")]
    if others is not None:
        beside = store.below("other_people")
        stages, slices = people_stages(config, family, others, beside)
        chain = [stages[0], _reference_stage(config, beside)]
        for step in stream_units(chain, beside, "references", range(len(slices))):
            report_stages(progress, step.given, len(slices), suffix=" of others")
        places.append((beside, "references"))
    elif config.references is not None:
        places.append((Store(config.references, config.storage_options), ""))
    return places
