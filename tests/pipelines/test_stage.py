"""Stages are checked before anything is loaded, and become exactly the wanted Ray Data call."""

from __future__ import annotations

import pytest

from pipelines.stages.ray_data import apply_stage
from pipelines.stages.stage import Stage, check_stages


class Nothing:
    def __call__(self, table):
        return table


A = Stage("a", Nothing, needs={"unit": "number"}, gives=("unit", "image"), num_cpus=1.0)
B = Stage("b", Nothing, needs={"image": "bytes"}, gives=("score",), num_cpus=0.5, num_gpus=0.25)


def test_a_fitting_chain_passes():
    check_stages([A, B], ["unit"], {"CPU": 2.0, "GPU": 1.0})


@pytest.mark.parametrize(
    ("stages", "first", "cluster", "message"),
    [
        ([A, A], ["unit"], {"CPU": 9}, "stage name 'a' stands twice"),
        ([A], ["x"], {"CPU": 9}, r"'a' needs the column 'unit' \(number\), present: x"),
        ([A, B], ["unit"], {"CPU": 1, "GPU": 1}, "ask for 1.5 CPUs .* the cluster has 1"),
        ([A, B], ["unit"], {"CPU": 9}, "ask for 0.25 GPUs .* the cluster has 0"),
        ([Stage("c", Nothing, concurrency=0)], ["unit"], {"CPU": 9}, "has 0 actors"),
    ],
)
def test_misfits_are_named(stages, first, cluster, message):
    with pytest.raises(ValueError, match=message):
        check_stages(stages, first, cluster)


class RecordingDataset:
    """Records what a dataset is asked for, without a cluster."""

    def map_batches_internal(self, actor, **kwargs):
        self.actor, self.kwargs = actor, kwargs
        return self


def test_a_stage_becomes_one_map_batches_call():
    data = RecordingDataset()
    apply_stage(data, Stage("faces", Nothing, {"x": 1}, concurrency=(1, 3), num_cpus=0.5))
    assert data.actor.__name__ == "faces"
    assert issubclass(data.actor, Nothing)
    assert data.kwargs["fn_constructor_kwargs"] == {"x": 1}
    assert data.kwargs["batch_size"] is None
    assert data.kwargs["batch_format"] == "pyarrow"
    assert data.kwargs["num_cpus"] == 0.5
    assert data.kwargs["num_gpus"] is None
    pool = data.kwargs["compute"]
    assert (pool.min_size, pool.max_size) == (1, 3)
