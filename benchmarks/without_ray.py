"""A run without Ray: the same actors one after the other, for others to be compared with."""

from __future__ import annotations

from pipelines.benchmark import write_requests
from pipelines.plan.inputs import load_manifests, request_plan
from pipelines.plan.made_from import MadeFrom
from pipelines.plan.weights import run_weights
from pipelines.run.units import unit_table
from pipelines.settings import BenchmarkConfig
from pipelines.stages.phases import generation_stage, people_stages, picture_stages
from pipelines.stages.stage import Stage
from pipelines.tables.storage import Store

__all__ = ["undisturbed"]


def undisturbed(config: BenchmarkConfig, *, scores: bool = False) -> None:
    """Writes people, requests and pictures of a configuration, and scores where they are wanted."""
    family, manifests, store = config.family(), load_manifests(config), Store(config.output)
    MadeFrom({}, manifests).claim(store, {}, lambda **_: None)
    people, slices = people_stages(config, family, manifests, store)
    _in_a_loop(people, len(slices))
    plan = request_plan(config, family, manifests, store, run_weights(family, config.methods))
    write_requests(store, plan)
    stages = (
        picture_stages(config, family, plan, store, config.metrics, {})
        if scores
        else [generation_stage(config, family, plan, store, {})]
    )
    _in_a_loop(stages, plan.units)


def _in_a_loop(stages: list[Stage], units: int) -> None:
    actors = [stage.actor(**stage.kwargs) for stage in stages]
    for unit in range(units):
        table = unit_table([unit])
        for actor in actors:
            table = actor(table)
