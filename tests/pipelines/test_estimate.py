"""The size of a run: arithmetic that a reader can do by hand, and rates of an earlier run."""

from __future__ import annotations

import json

import pytest

from infinite_id.config import preset
from pipelines.plan.estimate import Rates, estimate, measured_rates
from pipelines.run.units import unit_table
from pipelines.stages.generation import GenerationActor
from pipelines.tables.storage import Store
from tests.pipelines.conftest import small_plan

RATES = Rates(images_per_second=0.5, bytes_per_image=2e6)


def test_a_run_by_hand():
    found = estimate(
        people=100, texts=4, wanted=9000, rates=RATES, gpus=10, acceptance=0.5,
        embedding_bytes=10_000_000, gpu_price=2.0, storage_price=0.1,
    )  # fmt: skip
    assert (found.draws, found.gpu_hours, found.hours) == (18_000, 10.0, 1.0)
    assert (found.storage_gb, found.gpu_cost) == (37.0, 20.0)
    assert found.storage_cost == pytest.approx(3.7)


def test_a_part_of_a_draw_is_a_draw():
    found = estimate(people=1, texts=1, wanted=2, rates=RATES, gpus=1, acceptance=0.75)
    assert found.draws == 3


def test_rates_of_an_earlier_run(run_store):
    plan = small_plan("timed", ["a {subject}", "two"])
    GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    timings = {"images, in the actors": {"seconds": 3.0, "rows": 6}}
    run_store.write_bytes("run.json", json.dumps({"timings": timings}).encode())
    rates = measured_rates(run_store.url)
    size = run_store.fs.size(run_store.path("images/part-000000000.parquet"))
    assert (rates.images_per_second, rates.bytes_per_image) == (2.0, size / 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpus": 0}, "gpus is 0, allowed: 1 or more"),
        ({"acceptance": 0.0}, "acceptance is 0, allowed: more than 0"),
        ({"gpu_price": -1.0}, "GPU price is -1, allowed"),
    ],
)
def test_wrong_values(change, message):
    with pytest.raises(ValueError, match=message):
        estimate(**{"people": 1, "texts": 1, "wanted": 1, "rates": RATES, "gpus": 1, **change})


def test_a_rate_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images_per_second is 0, allowed"):
        Rates(0.0, 1.0)
    with pytest.raises(ValueError, match="holds no run"):
        measured_rates(str(tmp_path))
    Store(tmp_path).write_bytes("run.json", b"{}")
    with pytest.raises(ValueError, match="has no timed picture"):
        measured_rates(str(tmp_path))
