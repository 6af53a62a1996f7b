"""The main job, top to bottom: manifests -> faces -> embeddings -> requests -> images -> scores.

`run_benchmark` is the whole composition. Rows stream inside a phase; phases meet at the Parquet
tables of the run folder, each of which can be looked at, kept and gone on from.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from eval.metrics import needs_of
from pipelines.plan.fit import check_fit
from pipelines.plan.inputs import load_manifests, request_plan
from pipelines.plan.made_from import MadeFrom, deciding_settings
from pipelines.plan.requests import RequestPlan, Subject
from pipelines.plan.weights import local_preset, run_weights
from pipelines.run.counters import count_rejects
from pipelines.run.open import open_run
from pipelines.run.units import unit_flags
from pipelines.settings import BenchmarkConfig
from pipelines.stages.phases import people_stages, picture_stages
from pipelines.stages.ray_data import stream_units
from pipelines.stages.stage import Progress, check_stages, report_stages
from pipelines.stages.waiting import await_resources
from pipelines.tables.people import people_notes
from pipelines.tables.schemas import REJECTS
from pipelines.tables.storage import Store

__all__ = ["RunSummary", "run_benchmark", "write_requests"]

Cluster = Mapping[str, float]

_REQUESTS_PER_FILE = 65_536


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes:
        url: of the run folder.
        untrained: whether some weights were untrained, so that pictures are noise.
        people: in the pictures; a person's coarser photos are no further ones.
        pictures: rows of `images`.
        rejects: refused rows by reason.
        lost_tries: tries of units that ended with their process, by stage, over all resumes.
        seconds: of this invocation.
        seconds_to_first_picture: from its start until one was committed; None where nothing was
            left to make.
    """

    url: str
    untrained: bool
    people: int
    pictures: int
    rejects: dict[str, int]
    lost_tries: dict[str, int]
    seconds: float
    seconds_to_first_picture: float | None


def run_benchmark(
    config: BenchmarkConfig,
    *,
    command: str = "",
    progress: Progress = lambda phase, done, total: None,
    judged_by: Mapping[str, str] | None = None,
    prompts_of: Mapping[str, str] | None = None,
) -> RunSummary:
    """Runs the main job.

    Args:
        config: what to do.
        command: the command line, for the record.
        progress: told after each unit.
        judged_by: person -> the person of the run whose photos judge instead.
        prompts_of: see `pipelines.plan.inputs.request_plan`.

    Raises:
        ValueError: wrong input; one sentence. StorageError (a ValueError): a place that cannot be
            read or written.
        RunFailedError, ray.exceptions.RayError: the run stopped in the middle; what is committed
            stays, `resume` goes on.
    """
    begin = time.perf_counter()
    family = config.family()
    judges = config.given_judges()
    judges.check(needs_of(config.metrics, config.judges))
    manifests = load_manifests(config)
    weights = run_weights(family, config.methods, config.storage_options)
    check_fit(local_preset(family, config.storage_options), config.methods)
    first: float | None = None
    settings = deciding_settings(config, family, weights)

    def check(cluster: Cluster, limits: Cluster, store: Store) -> None:
        people, _ = people_stages(config, family, None, store)
        check_stages(people, ["unit"], limits)
        check_stages(pictures(None, store, cluster=cluster, limits=limits), ["unit"], limits)

    pictures = partial(
        picture_stages,
        config,
        family,
        metrics=config.metrics,
        judged_by=judged_by,
        judges=judges,
    )
    with open_run(
        config,
        family,
        weights,
        check=check,
        made_from=MadeFrom(settings, manifests, options=config.storage_options),
        command=command,
        notes=manifests.notes,
    ) as run:
        people, slices = people_stages(config, family, manifests, run.store)
        await_resources(people, config.resources.wait_seconds, run.limits)
        with run.timings.measure("faces and embeddings") as phase:
            for step in stream_units(people, run.store, "embeddings", range(len(slices))):
                run.lease.check()
                phase.rows += sum(step.rows["people"].to_pylist())
                report_stages(progress, step.given, len(slices))

        plan = request_plan(
            config, family, manifests, run.store, weights, prompts_of, count_rejects
        )
        run.folder.claim("people or requests", plan.digest)
        run.folder.update(
            plan={"requests": len(plan), "units": plan.units},
            notes=[*manifests.notes, *people_notes(run.store)],
        )
        write_requests(run.store, plan)

        stages = pictures(plan, run.store, cluster=run.cluster, limits=run.limits)
        await_resources(stages, config.resources.wait_seconds, run.limits)
        committed = np.flatnonzero(unit_flags(run.store, "scores", plan.units))
        finished = sum(plan.unit_rows(int(unit)) for unit in committed)
        with run.timings.measure("images and scores") as phase:
            for step in stream_units(stages, run.store, "scores", range(plan.units)):
                run.lease.check()
                rows = step.rows
                first = step.began.get("images", time.perf_counter()) - begin
                phase.rows += sum(rows["pictures"].to_pylist())
                run.timings.add("images, in the actors", rows, "generate_seconds")
                run.timings.add("scores, in the actors", rows, "score_seconds")
                finished += sum(plan.unit_rows(unit) for unit in rows["unit"].to_pylist())
                made = max(finished, len(plan) * step.given["images"] // plan.units)
                report_stages(progress, {"images": made, "scores": finished}, len(plan))
    # Every request is a picture or a reject; counting the rejects spares opening each unit's file.
    refused = run.store.read_folder("rejects", REJECTS, ["stage", "reason"])
    summary = RunSummary(
        url=run.store.url,
        untrained=weights.untrained,
        people=_people(plan.subjects, judged_by or {}),
        pictures=len(plan) - refused["stage"].to_pylist().count("images"),
        rejects=dict(Counter(refused["reason"].to_pylist())),
        lost_tries=run.folder.record.get("lost_tries", {}),
        seconds=time.perf_counter() - begin,
        seconds_to_first_picture=first,
    )
    run.folder.update(
        status="done",
        timings=run.timings.record,
        counts={
            "people": summary.people,
            "requests": len(plan),
            "pictures": summary.pictures,
            "rejects": sum(summary.rejects.values()),
        },
        metrics=_metrics(run.store),
        seconds=summary.seconds,
        seconds_to_first_picture=first,
    )
    return summary


def _people(subjects: Iterable[Subject], judged_by: Mapping[str, str]) -> int:
    """Neither a mix nor a group nor a person's coarser photo is one more person; who is in a group
    is one, with pictures alone or without."""
    people: set[str] = set()
    for one in subjects:
        people.update(one.group_people or ())
        if not one.mix_parts and not one.group_people and one.identity_id not in judged_by:
            people.add(one.identity_id)
    return len(people)


def write_requests(store: Store, plan: RequestPlan) -> None:
    """Writes the plan's rows to `requests`, in files of some 65,536 rows; done files stay."""
    have = set(store.names("requests", ".parquet"))
    units_per_file = max(1, _REQUESTS_PER_FILE // plan.unit_size)
    for number, first in enumerate(range(0, plan.units, units_per_file)):
        name = f"part-{number:09d}.parquet"
        if name in have:
            continue
        units = range(first, min(first + units_per_file, plan.units))
        store.write_table(f"requests/{name}", pa.concat_tables(plan.table(u) for u in units))


def _metrics(store: Store) -> dict[str, dict]:
    """What each scored column means: the scoring actors write it down when they load."""
    if not store.exists("metrics.json"):
        return {}
    return json.loads(store.read_bytes("metrics.json"))
