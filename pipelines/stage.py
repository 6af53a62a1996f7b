"""Stages: what a Ray Data actor needs, stated as data and checked before the first weight loads.

One place turns a stage into `map_batches` arguments. A stage reads and returns whole units: the
block that comes in is one unit, and so is the block that goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.metrics import metered
from pipelines.storage import Store
from pipelines.units import unit_flags, unit_table

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Progress", "Stage", "apply_stage", "check_stages", "stream_units"]

Progress = Callable[[str, int, int], None]
"""progress(phase, done, total), after every unit."""


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


def check_stages(
    stages: Sequence[Stage],
    first_columns: Sequence[str],
    cluster: Mapping[str, float],
    *,
    spare_cpus: float = 0.5,
) -> None:
    """Checks names, columns and resources of a chain of stages.

    Args:
        stages: in their order.
        first_columns: of the data that enters the first stage.
        cluster: resources as `ray.cluster_resources()` gives them: "CPU", "GPU".
        spare_cpus: kept free for reading and writing; a pool that takes every CPU never moves.

    Raises:
        ValueError: a name that stands twice, a column that no earlier stage gives, fewer than one
            actor, or more CPUs or GPUs than the cluster has.
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
    for resource, spare in (("CPU", spare_cpus), ("GPU", 0.0)):
        asked = sum(
            stage.least * (stage.num_cpus if resource == "CPU" else stage.num_gpus)
            for stage in stages
        )
        have = cluster.get(resource, 0.0)
        if asked + spare > have + 1e-6 and asked > 0:
            detail = ", ".join(
                f"{s.name} {s.least} x {s.num_cpus if resource == 'CPU' else s.num_gpus:g}"
                for s in stages
            )
            raise ValueError(
                f"the stages ask for {asked:g} {resource}s ({detail})"
                f"{f' and {spare:g} to read and write' if spare else ''}, "
                f"the cluster has {have:g}"
            )


def apply_stage(data: Dataset, stage: Stage) -> Dataset:
    """`data` with the stage appended: a pool of named actors, one unit a call."""
    from ray.data import ActorPoolStrategy

    size: dict[str, int] = (
        {"size": stage.concurrency}
        if isinstance(stage.concurrency, int)
        else {"min_size": stage.concurrency[0], "max_size": stage.concurrency[1]}
    )
    pool = ActorPoolStrategy(
        **size, max_concurrent_calls_per_actor=stage.calls, enable_true_multi_threading=True
    )
    # Ray Data shows the class's name; the stage's own name reads better on the dashboard.
    actor = metered(stage.name, stage.actor) if isinstance(stage.actor, type) else stage.actor
    return data.map_batches(
        actor,
        fn_constructor_kwargs=dict(stage.kwargs),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool,
        num_cpus=stage.num_cpus,
        num_gpus=stage.num_gpus or None,
    )


def stream_units(
    stages: Sequence[Stage], store: Store, folder: str, units: Sequence[int]
) -> Iterator[tuple[int, pa.Table]]:
    """Runs a chain of stages over the units whose results are not in `folder` yet.

    Yields (units done in all, the last stage's rows).
    """
    wanted = np.asarray(units, dtype=np.int64)
    committed = unit_flags(store, folder, int(wanted.max(initial=-1)) + 1)
    remaining = wanted[~committed[wanted]]
    if not remaining.size:
        return
    data = _units(remaining)
    for stage in stages:
        data = apply_stage(data, stage)
    number = wanted.size - remaining.size
    for rows in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(rows, pa.Table)  # noqa: S101 -- narrows the type
        number += rows.num_rows
        yield number, rows


def _units(units: NDArray[np.int64]) -> Dataset:
    """A dataset of one block a unit: the block is the grain of scheduling and of loss."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # It reads the process's page tables every second of every task and holds up the actor.
    context.memory_usage_poll_interval_s = None
    return ray.data.from_arrow(unit_table(units)).repartition(target_num_rows_per_block=1)
