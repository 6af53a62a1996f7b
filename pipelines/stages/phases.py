"""The stages of the phases that runs share: people (photos to embeddings) and pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from eval.judges.given import GivenJudges
from infinite_id.config import Preset
from infinite_id.methods import METHODS
from pipelines.plan.requests import UnitPlan
from pipelines.settings import RunConfig
from pipelines.stages.device import torch_device
from pipelines.stages.generation import GenerationActor
from pipelines.stages.people import EmbeddingActor, FaceActor
from pipelines.stages.scoring import ScoringActor
from pipelines.stages.stage import SPARE_CPUS, Stage
from pipelines.tables.manifest import (
    Manifests,
)
from pipelines.tables.schemas import FACES, IMAGES
from pipelines.tables.storage import Store

__all__ = [
    "generation_stage",
    "people_stages",
    "picture_stages",
    "generation_gpus",
    "generation_pool",
]

# Below this an actor spends more on loading than on pictures.
_UNITS_AN_ACTOR = 6
_MOST_THREADS = 4
_PEOPLE_PER_UNIT = 8


def people_stages(
    config: RunConfig, family: Preset, manifests: Manifests | None, store: Store
) -> tuple[list[Stage], list[tuple[int, int, int]]]:
    """The face and embedding stages, and each unit's rows of the identities manifest.

    Args:
        config: of the run.
        family: model family.
        manifests: that lie in the run folder, see `pipelines.plan.made_from`; None: the stages are
            of nobody, to be checked.
        store: the run folder.
    """
    slices = [] if manifests is None else _people_slices(store)
    resources = config.resources
    return [
        Stage(
            "faces",
            FaceActor,
            {
                "store": store,
                "manifest": f"{store.address}/manifests/identities.parquet",
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
            {
                "store": store,
                "preset": family,
                "held_out": config.held_out_photos,
                "check": config.check_people,
                "device": torch_device(resources.embedding_gpus),
                "options": config.storage_options,
            },
            needs={"unit": "number of the unit", "aligned": "PNG of the aligned face"},
            gives=("unit", "people"),
            concurrency=resources.embedding_actors,
            num_cpus=resources.embedding_cpus,
            num_gpus=resources.embedding_gpus,
        ),
    ], slices


def _people_slices(store: Store) -> list[tuple[int, int, int]]:
    with store.parquet("manifests/identities.parquet") as file:
        metadata = file.metadata
    return [
        (group, start, min(_PEOPLE_PER_UNIT, metadata.row_group(group).num_rows - start))
        for group in range(metadata.num_row_groups)
        for start in range(0, metadata.row_group(group).num_rows, _PEOPLE_PER_UNIT)
    ]


def generation_stage(
    config: RunConfig,
    family: Preset,
    plan: UnitPlan | None,
    store: Store,
    cluster: Mapping[str, float],
    *,
    limits: Mapping[str, float] | None = None,
    watermark: str | None = None,
) -> Stage:
    """The stage that makes pictures, see `picture_stages`."""
    gpus = generation_gpus(config, family)
    if family.attention != "sdpa" and not gpus:
        raise ValueError(
            f"attention is {family.attention!r}, which computes on a GPU alone, and "
            "generation_gpus is 0, allowed: attention sdpa"
        )
    units = 0 if plan is None else len(plan) // config.batch_size
    actors, threads = generation_pool(config, family, units, cluster)
    # A cluster that grows begins with what it has and takes more as it comes; one that grows
    # nobody knows how far is not asked for more than the run needs.
    known = {n: cluster.get(n, 0.0) if math.isinf(v) else v for n, v in (limits or {}).items()}
    most = generation_pool(config, family, units, known)[0] if known else actors
    needs_base = any(METHODS[name].computes for name in config.method_names)
    return Stage(
        "images",
        GenerationActor,
        {
            "store": store,
            "plan": plan,
            "preset": family,
            "image_format": config.image_format,
            "watermark": watermark,
            "threads": threads,
            "device": torch_device(gpus),
            "max_pixels": config.max_photo_pixels,
            "options": config.storage_options,
        },
        needs={"unit": "number of the unit"},
        gives=(*IMAGES.names, "unit"),
        concurrency=actors if most <= actors else (actors, most),
        num_cpus=config.resources.generation_cpus,
        num_gpus=gpus,
        # On a CPU the generator takes every core, and encoding beside it only slows it.
        calls=2 if gpus or not needs_base else 1,
    )


def picture_stages(
    config: RunConfig,
    family: Preset,
    plan: UnitPlan | None,
    store: Store,
    metrics: Sequence[str] | None,
    cluster: Mapping[str, float],
    limits: Mapping[str, float] | None = None,
    judged_by: Mapping[str, str] | None = None,
    judges: GivenJudges | None = None,
) -> list[Stage]:
    """The generation and scoring stages.

    Args:
        config: of the run.
        family: model family.
        plan: of the requests; None to check the stages, with the fewest actors.
        store: the run folder.
        metrics: names, see `eval.suite`; None for the default ones.
        cluster: resources as `ray.cluster_resources()` gives them.
        limits: what it can grow to, see `cluster_limits`; None: no further.
        judged_by, judges: see `ScoringActor`.
    """
    resources = config.resources
    return [
        generation_stage(config, family, plan, store, cluster, limits=limits),
        Stage(
            "scores",
            ScoringActor,
            {
                "store": store,
                "plan": plan,
                "metrics": metrics,
                "preset_name": family.name,
                "device": torch_device(resources.scoring_gpus),
                "scorer": config.scorer,
                "judged_by": judged_by,
                "judges": judges,
            },
            needs={"unit": "number of the unit", "image": "the encoded picture"},
            gives=("unit", "pictures", "generate_seconds", "score_seconds"),
            concurrency=resources.scoring_actors,
            num_cpus=resources.scoring_cpus,
            num_gpus=resources.scoring_gpus,
        ),
    ]


def generation_gpus(config: RunConfig, family: Preset) -> float:
    """GPUs of a generation actor: what was asked for, else one where the preset wants half
    precision, which is slow on a CPU, or a method is a large pipeline of its own."""
    if config.resources.generation_gpus is not None:
        return config.resources.generation_gpus
    specs = [METHODS[name] for name in config.method_names]
    half = any(spec.needs_base for spec in specs) and family.dtype != "float32"
    return 1.0 if half or any(spec.whole for spec in specs) else 0.0


def generation_pool(
    config: RunConfig, family: Preset, units: int, cluster: Mapping[str, float]
) -> tuple[int, int]:
    """Generation actors, and torch's threads in one of them: what was asked for, else a fit.

    Where actors take GPUs, all that the cluster has now get one. On a CPU a small model gains
    little from a second thread (1.45 times on two cores) and loses it to whatever else runs, so a
    long run gets an actor of one thread a core. Each loads for as long as a unit or two take, so a
    short run gets fewer actors of more threads. A large model on a CPU, and a generator without a
    model, get one actor.

    Args:
        config: of the run.
        family: model family.
        units: generation batches of the run.
        cluster: resources as `ray.cluster_resources()` gives them.
    """
    resources, cores = config.resources, os.cpu_count() or 1
    actors = resources.generation_actors
    if actors is None:
        beside = resources.scoring_actors * resources.scoring_cpus + SPARE_CPUS
        most = int((cluster.get("CPU", 0.0) - beside) / resources.generation_cpus)
        gpus = generation_gpus(config, family)
        if gpus:
            beside = resources.scoring_actors * resources.scoring_gpus
            fit = min(units, int((cluster.get("GPU", 0.0) - beside) / gpus + 1e-6))
        elif family.base == "pocket" and any(METHODS[m].needs_base for m in config.method_names):
            fit = min(cores, units // _UNITS_AN_ACTOR)
        else:
            fit = 1
        actors = max(1, min(most, fit))
    return actors, resources.threads or max(1, min(_MOST_THREADS, cores // actors))
