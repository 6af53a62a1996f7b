"""Runs stages on Ray Data: the only file of the run path that knows Ray Data.

Each unit is one block, the grain of scheduling and of loss. Ray Data holds a fast stage back by
the bytes that wait in the object store; units are small, so a run of millions of them would first
fill the driver with their bookkeeping (some 10 KB each). `BoundedQueues` bounds what waits, and
`forget_blocks` what the driver remembers of blocks that are gone.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.run.attempts import loading
from pipelines.run.counters import metered
from pipelines.run.units import unit_flags, unit_table
from pipelines.stages.stage import Stage
from pipelines.tables.storage import Store

if TYPE_CHECKING:
    from ray.data import DataContext, Dataset

__all__ = [
    "Step",
    "apply_stage",
    "bound_queues",
    "forget_blocks",
    "private_names",
    "stream_units",
    "unit_blocks",
]

# Units that wait between two stages: enough that none of them runs dry, few enough that a run of
# millions needs no more of the driver than one of thousands.
_LEAST_WAITING = 64
_WAITING_A_CALL = 4


# As many are cut by the driver. For more a worker does it, which has to start and import first.
_FEW_UNITS = 256


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
    # `map_batches` refuses actors with a GPU where a batch is a whole block, as a unit is.
    return data.map_batches_internal(
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


class PrivateNames(NamedTuple):
    """Names of Ray that are not public, each with the public one that was looked for in 2.60."""

    BackpressurePolicy: type
    """`DataContext` has bounds in bytes only (`execution_options.resource_limits`)."""
    ENABLED_BACKPRESSURE_POLICIES: Sequence[type]
    """No public function adds a policy to those that are on."""
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY: str
    ExecutionCallback: type
    """`DataContext.custom_execution_callback_classes` is public, the class that it takes is not;
    `Dataset.stats()` speaks after the execution only."""


# Attributes of Ray Data's operators and executors that are read here, besides public ones.
EXECUTOR_ATTRIBUTES = ("_topology",)
OPERATOR_ATTRIBUTES = ("_output_blocks_stats",)


def private_names() -> PrivateNames:
    """Imports them; late, because Ray Data takes seconds that `ray.init` needs as well.

    Raises:
        ImportError: this release of Ray has moved one.
    """
    from ray.data._internal.execution.backpressure_policy import (
        ENABLED_BACKPRESSURE_POLICIES,
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        BackpressurePolicy,
    )
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    return PrivateNames(
        BackpressurePolicy,
        ENABLED_BACKPRESSURE_POLICIES,
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        ExecutionCallback,
    )


def bound_queues(context: DataContext, most: int) -> None:
    """At most about `most` blocks wait between two operators, besides what Ray Data itself bounds.

    Args:
        context: of the dataset.
        most: blocks; tasks that run when it is reached still add theirs.
    """
    names = private_names()

    class BoundedQueues(names.BackpressurePolicy):  # type: ignore[misc, name-defined]
        """An operator gives no more blocks while enough of its own wait for the next one."""

        name = "BoundedQueues"

        def can_add_input(self, op: Any) -> bool:
            """Whether the operator may begin another task."""
            return self._free(op)

        def max_task_output_bytes_to_read(self, op: Any) -> int | None:
            """None for any number; 0 holds back a task that gives many blocks."""
            return None if self._free(op) else 0

        def _free(self, op: Any) -> bool:
            given = self._topology[op].total_enqueued_output_blocks()
            after = (self._topology[n] for n in op.output_dependencies)
            taken = (state.total_enqueued_input_blocks() for state in after)
            return max(given, *taken, 0) < most

    context.set_config(
        names.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        [*names.ENABLED_BACKPRESSURE_POLICIES, BoundedQueues],
    )


def forget_blocks(operator: Any) -> None:
    """Empties the list in which an operator keeps figures of every block it ever gave.

    They would be printed in `Dataset.stats()`, which nobody asks for here.
    """
    kept = getattr(operator, "_output_blocks_stats", None)
    if kept:
        kept.clear()


def _counting(stages: Sequence[str], given: dict[str, int], began: dict[str, float]) -> type:
    """A class of callbacks of one execution that keep in `given` how many blocks, which are
    units, each stage has given, in `began` when it gave the first, and nothing else of them."""
    names = {f"MapBatches({stage})": stage for stage in stages}

    base: Any = private_names().ExecutionCallback

    class Counting(base):
        def on_execution_step(self, executor: Any) -> None:
            for operator in executor._topology:
                forget_blocks(operator)
                if operator.name in names:
                    stage = names[operator.name]
                    given[stage] = operator.metrics.num_task_outputs_generated
                    if given[stage]:
                        began.setdefault(stage, time.perf_counter())

    return Counting
