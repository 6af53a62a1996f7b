"""Bounds what waits between two stages, and what the driver remembers of blocks that are gone.

Ray Data holds a fast stage back by the bytes that wait in the object store. Units are small, so a
run of millions of them would first fill the driver with their bookkeeping (some 10 KB each).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

if TYPE_CHECKING:
    from ray.data import DataContext

__all__ = ["bound_queues", "forget_blocks"]

_MOST_WAITING = "infinite_id.most_waiting_blocks"


class BoundedQueues(BackpressurePolicy):
    """An operator gives no more blocks while enough of its own wait for the next one."""

    name = "BoundedQueues"

    def can_add_input(self, op: Any) -> bool:
        """Whether the operator may begin another task."""
        return self._free(op)

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """None for any number; 0 holds back a task that gives many blocks."""
        return None if self._free(op) else 0

    def _free(self, op: Any) -> bool:
        most: int = self._data_context.get_config(_MOST_WAITING)
        given = self._topology[op].total_enqueued_output_blocks()
        taken = (self._topology[n].total_enqueued_input_blocks() for n in op.output_dependencies)
        return max(given, *taken, 0) < most


def bound_queues(context: DataContext, most: int) -> None:
    """At most about `most` blocks wait between two operators, besides what Ray Data itself bounds.

    Args:
        context: of the dataset.
        most: blocks; tasks that run when it is reached still add theirs.
    """
    context.set_config(_MOST_WAITING, most)
    policies = [*ENABLED_BACKPRESSURE_POLICIES, BoundedQueues]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)


def forget_blocks(operator: Any) -> None:
    """Empties the list in which an operator keeps figures of every block it ever gave.

    They would be printed in `Dataset.stats()`, which nobody asks for here.
    """
    kept = getattr(operator, "_output_blocks_stats", None)
    if kept:
        kept.clear()
