"""Two runs do not hold one folder; a dead run's lease is nobody's."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.places import StorageError
from jobs.console import user_errors
from jobs.dreambooth import dreambooth
from jobs.train import train
from pipelines.run.lease import Lease, LeaseLostError
from pipelines.tables.storage import Store


def test_a_second_run_is_refused_and_the_first_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with (
        Lease(store),
        pytest.raises(ValueError, match=r"is being written by process \d+ on .*, allowed: another"),
        Lease(store),
    ):
        pass
    assert not store.exists("lease.json")
    with Lease(store):
        pass


def test_a_process_that_died_without_a_word_holds_nothing(tmp_path):
    code = (
        "import os, sys\n"
        "from pipelines.run.lease import Lease\n"
        "from pipelines.tables.storage import Store\n"
        "Lease(Store(sys.argv[1]), seconds=3600).__enter__()\n"
        "os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == 9
    store = Store(tmp_path)
    assert store.exists("lease.json")
    with Lease(store):
        pass


def _foreign(store: Store, until: float) -> None:
    holder = {"token": "t", "host": "elsewhere", "pid": 7, "began": 0.0, "until": until}
    store.write_bytes("lease.json", json.dumps(holder).encode())


@pytest.mark.parametrize("other", ["pid:[1]", None])
def test_another_container_of_one_host_name_is_not_dead(tmp_path, other):
    """Its process numbers are not ours: that there is no such process here says nothing."""
    store = Store(tmp_path)
    with Lease(store):
        mine = json.loads(store.read_bytes("lease.json"))
    until = time.time() + 60
    holder = {**mine, "token": "t", "pid": 999_999, "until": until, "machine": other}
    store.write_bytes("lease.json", json.dumps(holder).encode())
    assert Lease.held(store)
    with pytest.raises(ValueError, match="is being written by process 999999"), Lease(store):
        pass
    store.write_bytes("lease.json", json.dumps({**holder, "machine": mine["machine"]}).encode())
    assert not Lease.held(store)


def _at_once(store: Store, count: int) -> list[Lease | None]:
    """Takes a lease in each of so many threads, which begin together; None where it was refused."""
    together = threading.Barrier(count)

    def take(_: int) -> Lease | None:
        lease = Lease(store)
        together.wait()
        try:
            return lease.__enter__()
        except ValueError:
            return None

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(take, range(count)))


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_begin_at_once_one_gets_the_folder(tmp_path, stale):
    store = Store(tmp_path)
    if stale:
        _foreign(store, until=time.time() - 1)
    got = [lease for lease in _at_once(store, 8) if lease is not None]
    assert len(got) == 1
    got[0].__exit__(None, None, None)
    assert store.holds() == []


class _Slow(Store):
    """Its first deletion takes long: time in which others take the lease."""

    slow = threading.Semaphore(1)

    def delete(self, path: str) -> None:
        if path == "lease.json" and self.slow.acquire(blocking=False):
            time.sleep(0.8)
        super().delete(path)


def test_who_is_slow_takes_nothing_away_that_was_made_since(tmp_path):
    store = _Slow(tmp_path)
    _foreign(store, until=time.time() - 1)
    got = [lease for lease in _at_once(store, 8) if lease is not None]
    assert len(got) == 1
    assert json.loads(store.read_bytes("lease.json"))["token"] == got[0]._token
    got[0].__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_who_died_while_it_took_a_lease_away_stops_nobody(tmp_path, monkeypatch):
    store = Store(tmp_path)
    _foreign(store, until=time.time() - 1)
    with monkeypatch.context() as broken:
        broken.setattr(Store, "delete", _die)
        with pytest.raises(KeyboardInterrupt):
            Lease(store).__enter__()
    # Hidden, so that it is no file of somebody else's.
    (claim,) = tmp_path.glob(".lease-*.claim")
    assert {path.name for path in tmp_path.iterdir()} == {claim.name, "lease.json"}
    claim.write_text(str(time.time() + 0.5))
    begun = time.monotonic()
    with Lease(store):
        assert time.monotonic() - begun > 0.3
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_was_late_and_renews_keeps_its_lease(tmp_path):
    store = Store(tmp_path)
    _foreign(store, until=time.time() - 1)
    seen = Lease(store)._read()
    _foreign(store, until=time.time() + 60)
    assert Lease(store)._take_away(seen)
    assert Lease.held(store)
    with pytest.raises(ValueError, match="is being written by process 7"), Lease(store):
        pass


def _die(self: Store, path: str) -> None:
    raise KeyboardInterrupt


def test_another_machines_lease_counts_until_it_runs_out(tmp_path):
    store = Store(tmp_path)
    _foreign(store, until=1000.0)
    with pytest.raises(ValueError, match="process 7 on elsewhere"), Lease(store, clock=lambda: 999):
        pass
    with Lease(store, clock=lambda: 1000):
        pass


def test_a_holder_renews_and_notices_that_it_was_replaced(tmp_path):
    store = Store(tmp_path)
    with Lease(store, seconds=0.4) as lease:
        first = json.loads(store.read_bytes("lease.json"))["until"]
        time.sleep(0.6)
        assert json.loads(store.read_bytes("lease.json"))["until"] > first
        lease.check()
        lost = None
        deadline = time.monotonic() + 30
        while lost is None and time.monotonic() < deadline:
            # Again and again: a renewal that has read already writes over it once.
            _foreign(store, until=time.time() + 60)
            time.sleep(0.2)
            try:
                lease.check()
            except LeaseLostError as error:
                lost = error
    assert str(lost).startswith("process 7 on elsewhere has taken over")
    assert json.loads(store.read_bytes("lease.json"))["token"] == "t"


def test_a_lost_lease_ends_what_is_waited_for(tmp_path, capsys):
    """A training looks at its lease between its files alone, and they are minutes apart."""
    store = Store(tmp_path)

    @user_errors("GO ON")
    def command() -> None:
        with Lease(store, seconds=0.2) as lease, lease.interrupting():
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                # Again and again: a renewal that has read already writes over it once.
                _foreign(store, until=time.time() + 60)
                time.sleep(0.1)
            raise AssertionError("nothing interrupted it")

    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("failed: process 7 on elsewhere has taken over output")
    assert said.endswith("; GO ON\n")
    assert json.loads(store.read_bytes("lease.json"))["token"] == "t"


def test_a_lease_that_is_kept_interrupts_nothing(tmp_path):
    with Lease(Store(tmp_path), seconds=0.2) as lease, lease.interrupting():
        time.sleep(0.3)


def test_rubbish_is_nobodys_lease(tmp_path):
    store = Store(tmp_path)
    store.write_bytes("lease.json", b"\xff{")
    with Lease(store):
        pass


@pytest.mark.parametrize("command", ["train", "dreambooth"])
def test_training_and_dreambooth_are_refused_where_another_works(tmp_path, capsys, command):
    table = pa.table({"identity_id": ["a"], "image": [b"x"]})
    pq.write_table(table, tmp_path / "data.parquet")
    output, data = str(tmp_path / "out"), str(tmp_path / "data.parquet")
    begin = {
        "train": partial(train, data=data, output=output, tracking_uri="none"),
        "dreambooth": partial(dreambooth, output),
    }[command]
    with Lease(Store(output)), pytest.raises(SystemExit) as left:
        begin()
    assert left.value.code == 2
    assert "is being written by process" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == []


def test_a_lease_that_cannot_be_read_is_not_taken_for_nobodys(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    with Lease(store):
        other = Store(str(tmp_path))

        def unreachable(name: str) -> bytes:
            raise StorageError("the store is away")

        monkeypatch.setattr(other, "read_bytes", unreachable)
        with pytest.raises(StorageError, match="the store is away"), Lease(other):
            pass
        assert Lease.held(store)
