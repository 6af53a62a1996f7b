"""The short form of `python -m benchmarks.run chaos_hosts`: hosts, and one run under cut links."""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.hosts import hosts, not_permitted
from benchmarks.run import load_scenario, main
from infinite_id.methods import METHODS
from infinite_id.timed_config import TimedConfig

WHY_NOT = not_permitted()
needs_hosts = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def answers(address: str) -> bool:
    try:
        socket.create_connection((address, 1), timeout=0.3).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    raise AssertionError("nothing listens there")


@needs_hosts
def test_a_host_has_an_address_a_tmp_and_a_cable_of_its_own(tmp_path: Path) -> None:
    log, mine = tmp_path / "said.log", f"/tmp/{tmp_path.name}"  # noqa: S108 -- the host's own
    with hosts(["one", "two"]) as (one, two):
        assert one.start(["touch", mine], log).wait() == 0
        assert one.start(["ls", str(Path(mine).parent)], log).wait() == 0
        assert two.start(["ls", str(Path(mine).parent)], log).wait() == 0
        assert log.read_text() == f"{tmp_path.name}\n"
        waiting = two.start(["sleep", "100"], log)
        until = time.monotonic() + 10
        while waiting.pid not in two.processes():
            assert time.monotonic() < until
        assert answers(one.address)
        one.cut()
        assert not answers(one.address)
        assert answers(two.address)
        one.mend()
        until = time.monotonic() + 10
        while not answers(one.address):
            assert time.monotonic() < until
    assert waiting.poll() is not None
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert one.name not in left.stdout


def test_an_unknown_cut_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos_hosts", "--set", "cuts=[head]"]) == 2
    said = capsys.readouterr().err
    assert "cuts has 'head', allowed: worker_for_a_while, worker_for_good, store_for_a_wh" in said


@needs_hosts
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_store_that_is_gone_and_a_worker_that_stays_away_lose_and_double_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from benchmarks.chaos_hosts import trials

    small = {
        "people": 8,
        "prompts": 2,
        "styles": 2,
        "seeds": 2,
        "batch_size": 4,
        "seconds_per_batch": 0.7,
    }
    cuts = {"cuts": ["store_for_a_moment_and_worker_for_good"]}
    arguments = load_scenario("chaos_hosts")["arguments"] | small | cuts
    # This process read the environment when it imported METHODS.
    monkeypatch.setenv("INFINITE_ID_TIMED_SECONDS", str(arguments["seconds_per_batch"]))
    monkeypatch.setitem(METHODS, "timed", replace(METHODS["timed"], config=TimedConfig()))
    (found,) = trials(arguments)
    assert (found["cuts_under_way"], found["runs_failed"]) == (2, 0), found
    wrong = ("rows_lost", "rows_doubled", "rows_refused", "files_torn")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert found["runs_unlike_the_undisturbed_one"] == 0
