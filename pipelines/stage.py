"""Stages: what a Ray Data actor needs, stated as data and checked before the first weight loads.

One place turns a stage into `map_batches` arguments. A stage reads and returns whole units: the
block that comes in is one unit, and so is the block that goes out.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.attempts import loading
from pipelines.metrics import metered, set_gauge
from pipelines.storage import Store
from pipelines.units import unit_flags, unit_table

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = [
    "SPARE_CPUS",
    "Progress",
    "Stage",
    "Step",
    "apply_stage",
    "check_stages",
    "report_stages",
    "stream_units",
    "unit_blocks",
]

SPARE_CPUS = 0.5
"""Kept free of actors, for reading and writing; a pool that takes every CPU never moves."""

# Units that wait between two stages: enough that none of them runs dry, few enough that a run of
# millions needs no more of the driver than one of thousands.
_LEAST_WAITING = 64
_WAITING_A_CALL = 4

# As many are cut by the driver. For more a worker does it, which has to start and import first.
_FEW_UNITS = 256

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


class Step(NamedTuple):
    """One unit through a chain of stages.

    Attributes:
        done: units that every stage has given, those of earlier runs included.
        rows: what the last stage gave for this one.
        given: units that each stage has given, by name, those of earlier runs included.
        began: `time.perf_counter` when a stage had given its first unit of this run, by name.
    """

    done: int
    rows: pa.Table
    given: Mapping[str, int]
    began: Mapping[str, float]


def check_stages(
    stages: Sequence[Stage],
    first_columns: Sequence[str],
    cluster: Mapping[str, float],
    *,
    spare_cpus: float = SPARE_CPUS,
) -> None:
    """Checks names, columns and resources of a chain of stages.

    Args:
        stages: in their order.
        first_columns: of the data that enters the first stage.
        cluster: resources as `ray.cluster_resources()` gives them: "CPU", "GPU".
        spare_cpus: kept free of actors.

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


def apply_stage(data: Dataset, stage: Stage, store: Store | None = None) -> Dataset:
    """`data` with the stage appended: a pool of named actors, one unit a call.

    Args:
        data: of units.
        stage: to append.
        store: the run folder, where actors that die while they load are counted; None: nowhere.
    """
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
    actor = stage.actor
    if isinstance(actor, type):
        actor = metered(stage.name, actor if store is None else _counted(store, stage.name, actor))
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


def _counted(store: Store, stage: str, actor: type) -> type:
    """A subclass of an actor that gives up when its process dies again and again as it loads: in
    its constructor, or in `load`, which some call before their first unit."""

    class Counted(actor):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            with _loading(store, stage, "constructor"):
                super().__init__(*args, **kwargs)

        def load(self) -> None:
            # Counted apart: each restart begins with a constructor that succeeds.
            with _loading(store, stage, "load"):
                super().load()

    return Counted


@contextlib.contextmanager
def _loading(store: Store, stage: str, part: str) -> Iterator[None]:
    import ray

    # Some hundred thousand objects that imports make and keep are looked through again and again:
    # a sixth of the seconds that torch, transformers and diffusers take.
    gc.disable()
    try:
        with loading(store, stage, f"{ray.get_runtime_context().get_actor_id()}_{part}"):
            yield
    finally:
        # What is loaded stays until the process ends, which would look through it once more: two
        # seconds of a core that the next stage's actors want.
        gc.freeze()
        gc.enable()


def stream_units(
    stages: Sequence[Stage], store: Store, folder: str, units: Sequence[int]
) -> Generator[Step]:
    """Runs a chain of stages over the units whose results are not in `folder` yet."""
    wanted = np.asarray(units, dtype=np.int64)
    committed = unit_flags(store, folder, int(wanted.max(initial=-1)) + 1)
    remaining = wanted[~committed[wanted]]
    if not remaining.size:
        return
    data = unit_blocks(remaining)
    from pipelines.backpressure import bound_queues

    bound_queues(
        data.context, max(_LEAST_WAITING, *(_WAITING_A_CALL * s.most_calls for s in stages))
    )
    given: dict[str, int] = {}
    began: dict[str, float] = {}
    counting = _counting([stage.name for stage in stages], given, began)
    data.context.custom_execution_callback_classes = [counting]
    for stage in stages:
        data = apply_stage(data, stage, store)
    before = number = wanted.size - remaining.size
    for rows in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(rows, pa.Table)  # noqa: S101 -- narrows the type
        number += rows.num_rows
        # The last unit may be here before the count of it, and a unit done twice counts twice.
        counts = ((s.name, before + given.get(s.name, 0)) for s in stages)
        through = {name: min(max(count, number), wanted.size) for name, count in counts}
        yield Step(number, rows, through, began)


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


def _counting(stages: Sequence[str], given: dict[str, int], began: dict[str, float]) -> type:
    """A class of callbacks of one execution that keep in `given` how many blocks, which are
    units, each stage has given, in `began` when it gave the first, and nothing else of them."""
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    from pipelines.backpressure import forget_blocks

    names = {f"MapBatches({stage})": stage for stage in stages}

    class Counting(ExecutionCallback):
        def on_execution_step(self, executor: Any) -> None:
            for operator in executor._topology:
                forget_blocks(operator)
                if operator.name in names:
                    stage = names[operator.name]
                    given[stage] = operator.metrics.num_task_outputs_generated
                    if given[stage]:
                        began.setdefault(stage, time.perf_counter())

    return Counting


def unit_blocks(units: NDArray[np.int64]) -> Dataset:
    """A dataset of one block a unit: the block is the grain of scheduling and of loss."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # It reads the process's page tables every second of every task and holds up the actor.
    context.memory_usage_poll_interval_s = None
    if units.size <= _FEW_UNITS:
        return ray.data.from_blocks([unit_table([unit]) for unit in units.tolist()])
    return ray.data.from_blocks([unit_table(units)]).repartition(target_num_rows_per_block=1)
