"""Two runs do not hold one folder; a dead run's lease is nobody's."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

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


def test_rubbish_is_nobodys_lease(tmp_path):
    store = Store(tmp_path)
    store.write_bytes("lease.json", b"\xff{")
    with Lease(store):
        pass
