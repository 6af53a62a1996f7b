"""Synthesising as a user does it: a command, accepted pictures, a report, an export; and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.run.status import run_status

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "tests" / "assets"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]
# The timed generator draws no faces; near-duplicates alone are refused, and drawn again.
OPTIONS = [
    *("--method", "timed", "--per-person", "4", "--redraws", "1", "--batch-size", "2"),
    *("--gates", "nsfw=none,one_face=false,identity=none,other_identity=none,duplicate_bits=32"),
]


def command(photos: Path, output: Path) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "jobs" / "synthesize.py"), "--address", "local", *OPTIONS),
        *("--identities", str(photos), "--output", str(output), "--resume"),
    ]


# A kill needs something to hit; the seconds are among what a resumed run must have in common.
ENVIRONMENT = {**os.environ, "INFINITE_ID_TIMED_SECONDS": "0.5"}


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=240, check=False, env=ENVIRONMENT
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three people with three photos each."""
    folder = tmp_path_factory.mktemp("photos")
    for path in ASSETS.glob("person[0-2]_*.png"):
        person = folder / path.name.partition("_")[0]
        person.mkdir(exist_ok=True)
        (person / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthesis") / "run"
    return folder, run(command(photos, folder))


def verdicts(folder: Path) -> list[dict]:
    return pq.read_table(folder / "verdicts").sort_by("sample_id").to_pylist()


def test_the_command_says_what_was_accepted(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads((folder / "report" / "synthesis.json").read_text())
    assert f"{report['accepted']} of 12 pictures accepted" in done.stdout
    assert f"{report['drawn']} drawn in {len(report['rounds'])} rounds" in done.stdout
    assert "duplicate" in done.stdout
    status = run_status(str(folder))
    assert (status.state, status.wanted, status.accepted) == ("done", 12, report["accepted"])


def test_what_was_refused_was_drawn_again_and_the_report_counts_both(finished):
    folder, _ = finished
    rows = verdicts(folder)
    accepted = {(row["person"], row["slot"]) for row in rows if row["accepted"]}
    assert len(accepted) == sum(row["accepted"] for row in rows)
    assert max(row["round"] for row in rows) >= 1
    report = json.loads((folder / "report" / "synthesis.json").read_text())
    assert (report["people"], report["drawn"]) == (3, len(rows))
    assert report["accepted"] == len(accepted)
    assert report["reasons"] == {"duplicate": len(rows) - len(accepted)}
    people = pq.read_table(folder / "report" / "people").to_pylist()
    assert [row["identity_id"] for row in people] == ["person0", "person1", "person2"]
    assert sum(row["accepted"] for row in people) == len(accepted)


def test_each_draw_has_a_picture_and_its_measures(finished):
    folder, _ = finished
    drawn = {row["sample_id"] for row in verdicts(folder)}
    for table in ("images", "scores"):
        assert set(pq.read_table(folder / table)["sample_id"].to_pylist()) == drawn
    # No gate asks how the judge sees the people.
    assert not (folder / "references").exists()


@pytest.mark.slow
def test_a_killed_synthesis_ends_as_an_undisturbed_one(finished, photos, tmp_path):
    whole, _ = finished
    folder = tmp_path / "run"
    first = subprocess.Popen(
        command(photos, folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=ENVIRONMENT,
    )
    # In the middle of the second round: one is decided, of the next a unit is measured.
    units = len(list((whole / "scores").glob("part-*.parquet")))
    first_round = len({row["unit"] for row in verdicts(whole) if row["round"] == 0})
    assert units > first_round + 1
    deadline = time.monotonic() + 150
    while len(list(folder.glob("scores/part-*.parquet"))) <= first_round:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert len(list(folder.glob("scores/part-*.parquet"))) < units
    assert run_status(str(folder)).state == "dead"
    resumed = run(command(photos, folder))
    assert resumed.returncode == 0, resumed.stderr
    assert verdicts(folder) == verdicts(whole)
    assert (folder / "report" / "synthesis.json").read_bytes() == (
        whole / "report" / "synthesis.json"
    ).read_bytes()
    tables = [
        pq.read_table(place / "images").sort_by("sample_id").drop(["seconds"])
        for place in (folder, whole)
    ]
    assert tables[0].equals(tables[1])
