"""The main job as a user runs it: a command, a run folder, a report, an MLflow run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.without_ray import undisturbed
from infinite_id.config import preset
from infinite_id.methods import METHODS
from infinite_id.timed_config import TimedConfig
from pipelines.settings import load_config
from pipelines.tables.schemas import EMBEDDINGS, FACES, IMAGES, REQUESTS, version_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]


def command(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / "benchmark.py"), "--address", "local", *options]


def run(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*options), capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on the shipped photos: seven people, one prompt, one style, two methods."""
    folder = tmp_path_factory.mktemp("job")
    options = ["--methods", "infinite_id,text_only", "--steps", "2", "--limit", "7"]
    done = run(*options, "--output", str(folder / "run"))
    return folder / "run", options, done


def test_the_command_says_where_everything_is(finished):
    folder, _, done = finished
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for word in ("14 pictures of 7 people", str(folder / "report" / "report.html"), "mlflow.db"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("table", "schema", "rows"),
    [
        ("faces", FACES, 7),
        ("embeddings", EMBEDDINGS, 7),
        ("requests", REQUESTS, 14),
        ("images", IMAGES, 14),
    ],
)
def test_tables_are_plain_parquet(finished, table, schema, rows):
    found = pq.read_table(finished[0] / table)
    assert found.num_rows == rows
    assert found.schema.names == schema.names
    part = next((finished[0] / table).glob("*.parquet"))
    assert version_of(pq.read_schema(part)) == version_of(schema)


def test_every_request_has_its_picture_and_scores(finished):
    ids = {
        table: sorted(pq.read_table(finished[0] / table)["sample_id"].to_pylist())
        for table in ("requests", "images", "scores")
    }
    assert ids["requests"] == ids["images"] == ids["scores"]
    assert len(set(ids["images"])) == 14


def test_mlflow_has_one_run_a_method_under_the_benchmark(finished):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{finished[0].parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("infinite-id")
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1
    assert parents[0].data.metrics["pictures"] == 14
    assert parents[0].data.params["preset"] == "pocket"
    children = {r.data.tags["method"]: r for r in runs if r not in parents}
    assert set(children) == {"infinite_id", "text_only"}
    report = json.loads((finished[0] / "report" / "report.json").read_text())
    for entry in report["methods"]:
        logged = children[entry["method"]].data.metrics
        assert logged["face_found"] == entry["cells"]["face_found"]["mean"]


def test_a_finished_run_is_not_overwritten_and_resumes_to_nothing(
    finished, shared_ray, infinite_id
):
    folder, options, _ = finished
    refused = infinite_id("benchmark", *options, "--output", folder)
    assert refused.returncode == 2
    assert "already holds the run of" in refused.stderr
    assert refused.stderr.count("\n") == 1
    other = infinite_id("benchmark", *options, "--output", folder, "--resume", "--seeds", "5")
    assert other.returncode == 2
    assert "belongs to a run with seeds '0', this run has '5'; allowed: the same" in other.stderr
    before = {path: path.stat().st_mtime_ns for path in folder.glob("images/*")}
    logged = (folder / "mlflow.json").read_bytes()
    again = infinite_id("benchmark", *options, "--seeds", "0:1", "--output", folder, "--resume")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.glob("images/*")} == before
    # Nor is it logged twice.
    assert (folder / "mlflow.json").read_bytes() == logged


@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setenv("INFINITE_ID_TIMED_SECONDS", "0.5")
    # This process read the environment when it imported METHODS.
    monkeypatch.setitem(METHODS, "timed", replace(METHODS["timed"], config=TimedConfig()))
    options = [
        *("--methods", "timed", "--limit", "40", "--batch-size", "2", "--metrics", "face_found"),
        *("--tracking-uri", "none"),
    ]
    first = subprocess.Popen(
        command(*options, "--output", str(tmp_path / "killed")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    images = tmp_path / "killed" / "images"
    try:
        while len(list(images.glob("part-*.parquet"))) < 3:
            assert first.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "the run did not come to its third unit"
            time.sleep(0.1)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    committed = {path.name: path.read_bytes() for path in images.glob("part-*.parquet")}
    assert 3 <= len(committed) < 20
    resumed = run(*options, "--output", str(tmp_path / "killed"), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    config = load_config(output=str(tmp_path / "whole"), methods=["timed"], limit=40, batch_size=2)
    undisturbed(config)
    for name, data in committed.items():
        assert (images / name).read_bytes() == data
    tables = [
        pq.read_table(tmp_path / name / "images").sort_by("sample_id").drop(["seconds"])
        for name in ("killed", "whole")
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == 40


def test_the_pocket_preset_is_what_ran(finished):
    record = json.loads((finished[0] / "run.json").read_text())
    assert record["status"] == "done"
    assert record["preset"] == preset("pocket").name
    assert record["counts"] == {"people": 7, "requests": 14, "pictures": 14, "rejects": 0}
