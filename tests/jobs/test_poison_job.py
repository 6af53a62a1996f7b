"""A request that kills the process that generates it, in a whole run: refused, and the run ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
# The short form, which kills itself on a row without Ray, is tests/pipelines/test_attempts.py.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(290)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One person, two prompts in one batch, one of them deadly; no reject is wanted."""
    folder = tmp_path_factory.mktemp("poison")
    (folder / "photos").mkdir()
    (folder / "photos" / "ann.png").symlink_to(ROOT / "tests" / "assets" / "person0_0.png")
    (folder / "prompts.csv").write_text(
        "prompt_id,text\ngood,a {subject}\ndeadly,a {subject} and hemlock\n"
    )
    (folder / "styles.csv").write_text("style,suffix\nraw,photo\n")
    (folder / "config.yaml").write_text("set_pictures: 0\n")
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "jobs" / "benchmark.py"), "--address", "local"),
            *("--config", str(folder / "config.yaml")),
            *("--identities", str(folder / "photos"), "--prompts", str(folder / "prompts.csv")),
            *("--styles", str(folder / "styles.csv"), "--methods", "timed", "--metrics", "timed"),
            *("--batch-size", "2", "--tracking-uri", "none", "--output", str(folder / "run")),
            *("--max-rejects", "0"),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "INFINITE_ID_TIMED_DEADLY": "hemlock"},
    )
    return folder / "run", done


def test_it_is_refused_after_two_tries_in_its_batch_and_two_alone(finished):
    folder, done = finished
    requests = pq.read_table(folder / "requests").to_pylist()
    deadly = {row["sample_id"] for row in requests if row["prompt_id"] == "deadly"}
    rejects = pq.read_table(folder / "rejects").to_pylist()
    assert [(row["stage"], row["key"]) for row in rejects] == [("images", key) for key in deadly]
    assert rejects[0]["reason"] == "killed_its_process"
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done"
    assert record["counts"] == {"people": 1, "requests": 2, "pictures": 1, "rejects": 1}
    assert record["lost_tries"] == {"images": 4}
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report["rejects"] == [{"stage": "images", "reason": "killed_its_process", "count": 1}]
    assert "units begun again after their process died: 4 of images" in done.stdout
    assert not list(folder.glob("attempts/*"))


def test_its_batch_mate_has_a_picture_and_a_score(finished):
    folder, _ = finished
    for table in ("images", "scores"):
        assert pq.read_table(folder / table)["prompt_id"].to_pylist() == ["good"]


def test_more_rejects_than_wanted_make_the_exit_code_1(finished):
    _, done = finished
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "1 pictures of 1 people" in done.stdout
    assert "1 rejects (1 killed_its_process)" in done.stdout
    assert done.stdout.rstrip().endswith("rejects are 1, at most 0 wanted")
