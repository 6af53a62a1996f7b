"""The policy against a topology of two operators, without Ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipelines.stages.ray_data import bound_queues, forget_blocks


class Context:
    """In place of Ray Data's, whose settings are of the whole process."""

    def __init__(self) -> None:
        self.values: dict = {}

    def set_config(self, key, value):
        self.values[key] = value

    def get_config(self, key, default=None):
        return self.values.get(key, default)


def bounded(context: Context, topology: dict):
    """The policy that `bound_queues` adds, over a topology."""
    bound_queues(context, 4)
    (policies,) = (value for value in context.values.values() if isinstance(value, list))
    assert policies[-1].name == "BoundedQueues"
    return policies[-1](context, topology, None)


class State:
    def __init__(self, given: int = 0, taken: int = 0) -> None:
        self.given, self.taken = given, taken

    def total_enqueued_output_blocks(self) -> int:
        return self.given

    def total_enqueued_input_blocks(self) -> int:
        return self.taken


class Operator(SimpleNamespace):
    __hash__ = object.__hash__


def operators() -> tuple:
    last = Operator(output_dependencies=[])
    return Operator(output_dependencies=[last]), last


@pytest.mark.parametrize(
    ("given", "taken", "free"), [(0, 0, True), (3, 3, True), (4, 0, False), (0, 4, False)]
)
def test_an_operator_is_held_back_by_what_waits_for_the_next(given: int, taken: int, free: bool):
    first, last = operators()
    context = Context()
    policy = bounded(context, {first: State(given), last: State(0, taken)})
    assert policy.can_add_input(first) is free
    assert policy.max_task_output_bytes_to_read(first) == (None if free else 0)
    assert policy.can_add_input(last)


def test_the_last_operator_is_held_back_by_its_reader():
    first, last = operators()
    context = Context()
    policy = bounded(context, {first: State(), last: State(given=4)})
    assert not policy.can_add_input(last)


def test_rays_own_policies_stay():
    context = Context()
    bound_queues(context, 4)
    (policies,) = (value for value in context.values.values() if isinstance(value, list))
    assert len(policies) > 1


def test_figures_of_blocks_are_forgotten():
    operator = SimpleNamespace(_output_blocks_stats=[1, 2])
    forget_blocks(operator)
    assert operator._output_blocks_stats == []
    forget_blocks(SimpleNamespace())
