"""Metrics: what is counted, and that Ray's own endpoint shows it."""

from __future__ import annotations

import socket
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.run.counters import BusyShare, count, metered, observe, set_gauge
from pipelines.run.units import commit_unit, unit_of, unit_table
from pipelines.stages.ray_data import apply_stage
from pipelines.stages.stage import Stage
from pipelines.tables.rejects import reject_row
from pipelines.tables.schemas import FACES
from pipelines.tables.storage import Store


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_busy_share_is_the_time_in_calls() -> None:
    clock = Clock()
    share = BusyShare(clock)
    assert _call(share, clock, 100.0, 101.0) == 1.0
    assert _call(share, clock, 103.0, 104.0) == pytest.approx(2 / 4)
    # After a long call a minute later, only the last minute counts: 30 of 60 seconds.
    assert _call(share, clock, 170.0, 200.0) == pytest.approx(0.5)
    assert _call(share, clock, 300.0, 700.0) == 1.0


def test_calls_that_overlap_count_once() -> None:
    clock = Clock()
    share = BusyShare(clock)
    clock.now = 102.0
    share.enter()
    clock.now = 103.0
    share.enter()
    clock.now = 104.0
    share.leave()
    clock.now = 106.0
    assert share.leave() == pytest.approx(4 / 6)


def _call(share: BusyShare, clock: Clock, begin: float, end: float) -> float:
    clock.now = begin
    share.enter()
    clock.now = end
    return share.leave()


def test_outside_ray_nothing_is_recorded(monkeypatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("pipelines.run.counters._metric", made.append)
    monkeypatch.setattr("pipelines.run.counters._in_ray", lambda: False)
    count("infinite_id_pictures_total", 3, method="text_only", status="ok")
    observe("infinite_id_batch_seconds", 1.0, method="text_only")
    set_gauge("infinite_id_queue_rows", 2, stage="images")
    assert made == []


def test_metered_actor_gives_the_same_tables_and_errors() -> None:
    actor = metered("doubler", Doubler)(by=3)
    assert type(actor).__name__ == "doubler"
    assert actor(pa.table({"unit": [4]}))["unit"].to_pylist() == [12]
    with pytest.raises(KeyError):
        actor(pa.table({"other": [1]}))


class Doubler:
    def __init__(self, by: int = 2) -> None:
        self._by = by

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.table({"unit": [self._by * value for value in table["unit"].to_pylist()]})


class Refuser:
    """Commits a unit with one refused row and counts a picture."""

    def __init__(self, folder: str) -> None:
        self._store = Store(folder)

    def __call__(self, table: pa.Table) -> pa.Table:
        rejects = [reject_row("faces", "ann", "no_face", "no face was found")]
        commit_unit(self._store, "faces", unit_of(table, "faces"), [], FACES, rejects)
        count("infinite_id_pictures_total", 5, method="text_only", status="ok")
        return table


@pytest.mark.ray
def test_the_metrics_port_of_ray_shows_them(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from pipelines.run.environment import quiet

    quiet()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _metrics_export_port=port,
        object_store_memory=100_000_000,
    )
    try:
        data = ray.data.from_arrow(unit_table(range(4))).repartition(target_num_rows_per_block=1)
        apply_stage(data, Stage("faces", Refuser, {"folder": str(tmp_path)})).materialize()
        wanted = [
            "ray_infinite_id_rejects_total{",
            "ray_infinite_id_pictures_total{",
            "ray_infinite_id_actor_busy_share{",
        ]
        shown = _scrape(port, wanted)
        refused = next(line for line in shown if line.startswith(wanted[0]))
        assert 'reason="no_face"' in refused
        assert 'stage="faces"' in refused
        assert refused.endswith(" 4.0")
        made = next(line for line in shown if line.startswith(wanted[1]))
        assert made.endswith(" 20.0")
        busy = next(line for line in shown if line.startswith(wanted[2]))
        assert 0 < float(busy.rpartition(" ")[2]) <= 1
    finally:
        ray.shutdown()


def _scrape(port: int, wanted: list[str], seconds: float = 60.0) -> list[str]:
    """Lines of the endpoint, once all wanted ones are there; Ray exports at intervals."""
    end = time.monotonic() + seconds
    lines: list[str] = []
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            lines = []
        if all(any(line.startswith(start) for line in lines) for start in wanted):
            return lines
        time.sleep(1)
    raise AssertionError(f"{wanted} not among {[x for x in lines if 'infinite_id' in x]}")
