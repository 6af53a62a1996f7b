"""The main job, top to bottom: manifests -> faces -> embeddings -> requests -> images -> scores.

`run_benchmark` is the whole composition. Rows stream inside a phase; phases meet at the Parquet
tables of the run folder, each of which can be looked at, kept and gone on from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from infinite_id.config import Preset
from infinite_id.methods import METHODS
from pipelines.actors import EmbeddingActor, FaceActor, GenerationActor, ScoringActor
from pipelines.inputs import (
    generation_gpus,
    inputs_digest,
    load_manifests,
    model_family,
    request_plan,
)
from pipelines.lease import Lease
from pipelines.manifest import Manifests
from pipelines.metrics import set_gauge
from pipelines.plan import RequestPlan
from pipelines.revisions import weights_revision
from pipelines.run_folder import RunFolder, Timings, environment
from pipelines.schemas import FACES, IMAGES
from pipelines.session import ray_session
from pipelines.settings import BenchmarkConfig
from pipelines.stage import Stage, apply_stage, check_stages
from pipelines.storage import Store
from pipelines.units import committed_units, unit_table

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["RunSummary", "run_benchmark"]

_PEOPLE_PER_UNIT = 8
_REQUESTS_PER_FILE = 65_536

Progress = Callable[[str, int, int], None]
"""progress(phase, done, total), after every unit."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes:
        url: of the run folder.
        untrained: whether some weights were untrained, so that pictures are noise.
        people, pictures, rejects: rows of `embeddings`, `images`, `rejects`.
        seconds: of this invocation.
        seconds_to_first_picture: from its start; None where nothing was left to make.
    """

    url: str
    untrained: bool
    people: int
    pictures: int
    rejects: int
    seconds: float
    seconds_to_first_picture: float | None


def run_benchmark(
    config: BenchmarkConfig,
    *,
    command: str = "",
    progress: Progress = lambda phase, done, total: None,
) -> RunSummary:
    """Runs the main job.

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
    family = model_family(config)
    manifests = load_manifests(config)
    run = RunFolder(config.output, config.storage_options, resume=config.resume)
    weights, untrained = weights_revision(family)
    timings = Timings(run.record.get("timings", {}))
    first: float | None = None
    with (
        Lease(run.store) as lease,
        run.recording(
            timings,
            digests={"inputs or settings": inputs_digest(config, manifests)},
            command=command,
            preset=family.name,
            untrained=untrained,
            config=config.model_dump(exclude={"storage_options"}),
            environment=environment(),
            revisions={"weights": weights},
        ),
        ray_session(config.address) as cluster,
    ):
        people_stages, slices = _people_stages(config, family, manifests, run.store)
        check_stages(people_stages, ["unit"], cluster)
        check_stages(_picture_stages(config, family, None, run.store), ["unit"], cluster)

        with timings.measure("faces and embeddings") as phase:
            for done, rows in _stream(people_stages, run.store, "embeddings", len(slices)):
                lease.check()
                phase.rows += sum(rows["people"].to_pylist())
                set_gauge("infinite_id_queue_rows", len(slices) - done, stage="faces")
                progress("people", done, len(slices))

        plan = request_plan(config, family, manifests, run.store)
        run.claim("people or requests", plan.digest)
        run.update(plan={"requests": len(plan), "units": plan.units})
        write_requests(run.store, plan)

        stages = _picture_stages(config, family, plan, run.store)
        finished = sum(plan.unit_rows(unit) for unit in committed_units(run.store, "scores"))
        with timings.measure("images and scores") as phase:
            for _, rows in _stream(stages, run.store, "scores", plan.units):
                lease.check()
                first = time.perf_counter() - begin if first is None else first
                phase.rows += sum(rows["pictures"].to_pylist())
                timings.add("images, in the actors", rows, "generate_seconds")
                timings.add("scores, in the actors", rows, "score_seconds")
                finished += sum(plan.unit_rows(unit) for unit in rows["unit"].to_pylist())
                set_gauge("infinite_id_queue_rows", len(plan) - finished, stage="images")
                progress("pictures", finished, len(plan))
    summary = RunSummary(
        url=run.store.url,
        untrained=untrained,
        people=run.store.count_rows("embeddings"),
        pictures=run.store.count_rows("images"),
        rejects=run.store.count_rows("rejects"),
        seconds=time.perf_counter() - begin,
        seconds_to_first_picture=first,
    )
    run.update(
        status="done",
        timings=timings.record,
        counts={
            "people": summary.people,
            "requests": len(plan),
            "pictures": summary.pictures,
            "rejects": summary.rejects,
        },
        metrics=_metrics(run.store),
        seconds=summary.seconds,
        seconds_to_first_picture=first,
    )
    return summary


def _people_stages(
    config: BenchmarkConfig, family: Preset, manifests: Manifests, store: Store
) -> tuple[list[Stage], list[tuple[int, int, int]]]:
    """The face and embedding stages, and each unit's rows of the identities manifest."""
    if not store.exists("manifests/identities.parquet"):
        for kind in ("prompts", "styles", "mixes", "identities"):
            store.write_table(
                f"manifests/{kind}.parquet", getattr(manifests, kind), row_group_size=256
            )
    with store.fs.open(store.path("manifests/identities.parquet"), "rb") as file:
        metadata = pq.ParquetFile(file).metadata
    slices = [
        (group, start, min(_PEOPLE_PER_UNIT, metadata.row_group(group).num_rows - start))
        for group in range(metadata.num_row_groups)
        for start in range(0, metadata.row_group(group).num_rows, _PEOPLE_PER_UNIT)
    ]
    resources = config.resources
    return [
        Stage(
            "faces",
            FaceActor,
            {
                "store": store,
                "manifest": f"{store.url}/manifests/identities.parquet",
                "slices": slices,
                "faces": family.encoders.faces,
                "limits": {"max_pixels": config.max_photo_pixels},
                "min_face": config.min_face,
                "largest": config.largest_face,
                "options": config.storage_options,
            },
            needs={"unit": "number of the unit"},
            gives=(*FACES.names, "unit"),
            concurrency=resources.face_actors,
            num_cpus=resources.face_cpus,
        ),
        Stage(
            "embeddings",
            EmbeddingActor,
            {"store": store, "preset": family, "held_out": config.held_out_photos},
            needs={"unit": "number of the unit", "aligned": "PNG of the aligned face"},
            gives=("unit", "people"),
            concurrency=resources.embedding_actors,
            num_cpus=resources.embedding_cpus,
        ),
    ], slices


def _picture_stages(
    config: BenchmarkConfig, family: Preset, plan: RequestPlan | None, store: Store
) -> list[Stage]:
    resources = config.resources
    gpus = generation_gpus(config, family)
    return [
        Stage(
            "images",
            GenerationActor,
            {
                "store": store,
                "plan": plan,
                "preset": family,
                "image_format": config.image_format,
                "threads": resources.threads,
                "options": config.storage_options,
            },
            needs={"unit": "number of the unit"},
            gives=(*IMAGES.names, "unit"),
            concurrency=resources.generation_actors,
            num_cpus=resources.generation_cpus,
            num_gpus=gpus,
            # On a CPU the generator takes every core, and encoding beside it only slows it.
            calls=2 if gpus or not any(METHODS[name].needs_base for name in config.methods) else 1,
        ),
        Stage(
            "scores",
            ScoringActor,
            {
                "store": store,
                "plan": plan,
                "metrics": config.metrics,
                "preset_name": family.name,
            },
            needs={"unit": "number of the unit", "image": "the encoded picture"},
            gives=("unit", "pictures", "generate_seconds", "score_seconds"),
            concurrency=resources.scoring_actors,
            num_cpus=resources.scoring_cpus,
            num_gpus=resources.scoring_gpus,
        ),
    ]


def _stream(
    stages: Sequence[Stage], store: Store, folder: str, total: int
) -> Iterator[tuple[int, pa.Table]]:
    """Runs the units whose results are not in `folder` yet; yields (units done, last rows)."""
    done = committed_units(store, folder)
    remaining = [unit for unit in range(total) if unit not in done]
    if not remaining:
        return
    data = _units(remaining)
    for stage in stages:
        data = apply_stage(data, stage)
    number = len(done)
    for rows in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(rows, pa.Table)  # noqa: S101 -- narrows the type
        number += rows.num_rows
        yield number, rows


def _units(units: Sequence[int]) -> Dataset:
    """A dataset of one block a unit: the block is the grain of scheduling and of loss."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # It reads the process's page tables every second of every task and holds up the actor.
    context.memory_usage_poll_interval_s = None
    return ray.data.from_arrow(unit_table(units)).repartition(target_num_rows_per_block=1)


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
