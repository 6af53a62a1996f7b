"""Private names of Ray that `pipelines.stages.ray_data` uses: a new release may move them."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path

import pytest

from pipelines.run.session import end_quietly
from pipelines.stages import ray_data

ROOT = Path(__file__).parents[2]


def test_every_private_name_of_ray_is_still_there():
    try:
        names = ray_data.private_names()
        from ray.data._internal.execution.operators.map_operator import MapOperator
        from ray.data._internal.execution.streaming_executor import StreamingExecutor
    except ImportError as error:
        pytest.fail(f"this release of Ray has moved a name that ray_data.py uses: {error}")
    from ray.data import Dataset

    assert hasattr(Dataset, "map_batches_internal"), (
        "Ray's Dataset has no map_batches_internal any more: stages with a GPU are refused"
    )
    for method in ("can_add_input", "max_task_output_bytes_to_read"):
        assert hasattr(names.BackpressurePolicy, method), (
            f"Ray's BackpressurePolicy has no {method} any more: BoundedQueues bounds nothing"
        )
    assert hasattr(names.ExecutionCallback, "on_execution_step"), (
        "Ray's ExecutionCallback has no on_execution_step any more: no progress is counted"
    )
    sources = inspect.getsource(MapOperator), inspect.getsource(StreamingExecutor)
    for owner, attributes, source in zip(
        ("MapOperator", "StreamingExecutor"),
        (ray_data.OPERATOR_ATTRIBUTES, ray_data.EXECUTOR_ATTRIBUTES),
        sources,
        strict=True,
    ):
        for attribute in attributes:
            assert re.search(rf"self\.{attribute}\b", source), (
                f"Ray's {owner} has no {attribute} any more, which ray_data.py reads"
            )


def test_ray_train_still_registers_its_handler_of_ctrl_c_by_that_name():
    from ray.train.torch import TorchTrainer

    assert hasattr(TorchTrainer, "_register_sigint_handler"), (
        "Ray's TorchTrainer has no _register_sigint_handler any more: Ctrl-C would end a training "
        "with exit code 0"
    )


def test_nothing_is_printed_of_ray_any_more_by_that_name(monkeypatch):
    from ray._private import worker

    monkeypatch.setattr(worker, "_worker_logs_enabled", True)
    told = {"pid": "raylet", "lines": ["Task failed. The actor was killed by `ray.kill`."]}
    for printed in (True, False):
        shown = io.StringIO()
        worker.print_worker_logs(told, shown)
        assert ("ray.kill" in shown.getvalue()) is printed
        end_quietly()


def test_no_other_file_of_the_run_path_knows_ray_data():
    knows = {
        str(path.relative_to(ROOT))
        for name in ("pipelines", "infinite_id", "eval", "jobs")
        for path in (ROOT / name).rglob("*.py")
        if re.search(r"ray\.data\b|ray\.[a-z_.]*_(internal|private)", path.read_text("utf-8"))
    }
    # A training reads its photos with Ray Data; a session imports it ahead of time.
    allowed = {
        "pipelines/stages/ray_data.py",
        "pipelines/run/session.py",
        "pipelines/training/job.py",
    }
    assert knows == allowed, f"Ray Data is known in {sorted(knows)}, allowed: {sorted(allowed)}"
