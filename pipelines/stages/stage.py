"""Stages: what an actor needs, stated as data and checked before the first weight loads.

A stage reads and returns whole units: the block that comes in is one unit, and so is the block
that goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.run.counters import set_gauge

__all__ = [
    "SPARE_CPUS",
    "Progress",
    "Stage",
    "check_stages",
    "demand",
    "report_stages",
]

SPARE_CPUS = 0.5
"""Kept free of actors, for reading and writing; a pool that takes every CPU never moves."""


Progress = Callable[[str, int, int], None]
"""progress(stage, done, total), after every unit."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a pipeline.

    Attributes:
        name: unique; the dashboard shows it.
        actor: a class whose instances map a pyarrow.Table to a pyarrow.Table.
        kwargs: of its constructor.
        needs: columns that it reads, each with a line of description.
        gives: columns of its output.
        concurrency: number of actors; (least, most) for an autoscaling pool.
        num_cpus, num_gpus: of one actor; fractions are allowed.
        calls: that overlap in one actor, whose class has to allow it; 1 or more.
    """

    name: str
    actor: Callable[..., Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    gives: tuple[str, ...] = ()
    concurrency: int | tuple[int, int] = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    calls: int = 1

    @property
    def least(self) -> int:
        """The fewest actors that the stage runs with."""
        return self.concurrency if isinstance(self.concurrency, int) else self.concurrency[0]

    @property
    def most_calls(self) -> int:
        """The most units that its actors have in their hands."""
        actors = self.concurrency if isinstance(self.concurrency, int) else self.concurrency[1]
        return actors * self.calls


def check_stages(
    stages: Sequence[Stage],
    first_columns: Sequence[str],
    cluster: Mapping[str, float],
) -> None:
    """Checks names, columns and resources of a chain of stages.

    Args:
        stages: in their order.
        first_columns: of the data that enters the first stage.
        cluster: what it has or can grow to: "CPU", "GPU".

    Raises:
        ValueError: a name that stands twice, a column that no earlier stage gives, fewer than one
            actor, or more CPUs or GPUs than the cluster can have.
    """
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"stage name {name!r} stands twice, allowed: each once")
    present = set(first_columns)
    for stage in stages:
        if stage.least < 1:
            raise ValueError(f"stage {stage.name!r} has {stage.least} actors, allowed: 1 or more")
        for column, meaning in stage.needs.items():
            if column not in present:
                raise ValueError(
                    f"stage {stage.name!r} needs the column {column!r} ({meaning}), present: "
                    f"{', '.join(sorted(present))}"
                )
        present = set(stage.gives) or present
    for resource, spare in (("CPU", SPARE_CPUS), ("GPU", 0.0)):
        asked, have = demand(stages, resource), cluster.get(resource, 0.0)
        if asked + spare > have + 1e-6 and asked > 0:
            detail = ", ".join(
                f"{s.name} {s.least} x {s.num_cpus if resource == 'CPU' else s.num_gpus:g}"
                for s in stages
            )
            raise ValueError(
                f"the stages ask for {asked:g} {resource}s ({detail})"
                f"{f' and {spare:g} to read and write' if spare else ''}, "
                f"the cluster has {have:g}, counting what it may grow to (nothing without an "
                f"autoscaler); allowed: fewer actors, or resources.cluster_{resource.lower()}s "
                "where it can grow to more, which the run then waits for"
            )


def demand(stages: Sequence[Stage], resource: str) -> float:
    """The CPUs or GPUs of the fewest actors of stages that run together."""
    return sum(
        stage.least * (stage.num_cpus if resource == "CPU" else stage.num_gpus) for stage in stages
    )


def report_stages(
    progress: Progress, done: Mapping[str, int], total: int, *, suffix: str = ""
) -> None:
    """Tells the progress of each stage of a chain, and what waits for it.

    Args:
        progress: told.
        done: rows or units that each stage has given, by name, in the chain's order.
        total: rows or units that enter the first stage.
        suffix: of the names that `progress` is told.
    """
    entered = total
    for stage, number in done.items():
        set_gauge("infinite_id_queue_rows", entered - number, stage=stage)
        progress(stage + suffix, number, total)
        entered = number
