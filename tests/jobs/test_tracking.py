"""Logging a run folder to MLflow: once, wherever and whenever it is asked for, and comparable."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import mlflow
import pytest

from jobs.tracked_run import log_run
from jobs.tracking import tracked_where, tracking_address
from tests.jobs.tracked import parents, write_finished


@pytest.fixture
def folder(tmp_path: Path, finished_run: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def test_results_are_logged_once(folder, database):
    uri = f"sqlite:///{database}"
    first = log_run(str(folder), uri, "test")
    assert log_run(str(folder), uri, "test") == first
    assert [run.info.run_id for run in parents(uri)] == [first]
    record = json.loads((folder / "run.json").read_text())
    record["counts"]["pictures"] = 13
    (folder / "run.json").write_text(json.dumps(record))
    second = log_run(str(folder), uri, "test")
    assert sorted(run.info.run_id for run in parents(uri)) == sorted([first, second])


def test_another_store_or_a_deleted_run_gets_them_again(folder, database, tmp_path):
    uris = [f"sqlite:///{database}", f"sqlite:///{shutil.copy(database, tmp_path / 'two.db')}"]
    first = log_run(str(folder), uris[0], "test")
    assert log_run(str(folder), uris[1], "test") != first
    again = log_run(str(folder), uris[0], "test")
    mlflow.MlflowClient(uris[0]).delete_run(again)
    last = log_run(str(folder), uris[0], "test")
    assert last not in (first, again)


def test_runs_can_be_compared(folder, database):
    uri = f"sqlite:///{database}"
    client = mlflow.MlflowClient(uri)
    parent = client.get_run(log_run(str(folder), uri, "test"))
    found = client.get_experiment_by_name("test")
    experiment = found.experiment_id
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    own = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    children = client.search_runs([experiment], filter_string=own)
    assert {run.data.params["method"] for run in children} == {
        "infinite_id", "ip_adapter", "text_only",
    }  # fmt: skip
    scores = {"face_found", "face_count", "identity_facenet", "text_score", "pictures"}
    scores |= {"identity_margin", "identity_rank1"}
    for run in [parent, *children]:
        assert scores <= set(run.data.metrics)
        assert not any("/" in name for name in run.data.metrics)
        # Settings that the configuration leaves to the preset are there with what was used.
        assert run.data.params["num_inference_steps"] == "30"
        assert run.data.params["guidance_scale"] == "5.0"
        assert run.data.params["height"] == "64"
        assert run.data.params["seeds"] == "0"
        assert run.data.params["revision.base"] == "pocket-1"
        assert run.data.params["weights.a_24_b"].endswith("x ... (whole in run.json)")
        assert run.data.tags["preset"] == "pocket"
        assert run.data.tags["code"] == "abc"
        assert len(run.data.tags["dataset"]) == 16
        assert (run.info.end_time - run.info.start_time) == 600_000
        assert run.info.status == "FINISHED"
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert "results.json" in names
        inputs = run.inputs.dataset_inputs
        assert {one.dataset.name for one in inputs} == {"identities", "prompts", "styles"}
    assert set(children[0].data.metrics) == set(children[1].data.metrics) == scores
    best = next(run for run in children if run.data.params["method"] == "infinite_id")
    assert parent.data.params["headline_method"] == "infinite_id"
    assert parent.data.metrics["identity_facenet"] == best.data.metrics["identity_facenet"]
    names = {file.path for file in client.list_artifacts(best.info.run_id)}
    assert {"grid.png", "scatter.png"} <= names
    table = mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/results.json")
    assert "low" in table["columns"]
    place = table["columns"].index("metric")
    assert sum(row[place] == "identity_margin" for row in table["data"]) == 3


def test_the_dataset_is_told_by_its_content(folder, database, tmp_path):
    uri = f"sqlite:///{database}"
    other = write_finished(tmp_path / "elsewhere")
    # As runs were before there were groups.
    (other / "manifests" / "groups.parquet").unlink()
    client = mlflow.MlflowClient(uri)
    tags = [
        client.get_run(log_run(str(place), uri, "test")).data.tags["dataset"]
        for place in (folder, other)
    ]
    assert tags[0] == tags[1]


@pytest.mark.parametrize("name", ["p%20q", "p?q", "b[1] #", "a::b", "ü ' \""])
def test_the_database_lies_where_the_path_says(tmp_path, template, finished_run, name):
    place = tmp_path / name
    place.mkdir()
    shutil.copy(template, place / "mlflow.db")
    folder = shutil.copytree(finished_run, place / "run")
    uri = tracking_address(None, str(folder))
    run_id = log_run(str(folder), uri, "test")
    # MLflow also makes the folder that the escapes of the address would name.
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [place]
    assert [run.info.run_id for run in parents(uri)] == [run_id]
    assert list((place / "mlruns").rglob("report.html"))


def test_where_a_run_is_logged(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    beside = f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_address("none", "runs/a") is None
    assert tracking_address(None, "a") == beside
    assert tracking_address(None, "~/a") == beside
    assert tracking_address("sqlite:///mlflow.db", "runs/a") == beside
    assert tracking_address("http://host", "runs/a") == "http://host"
    # Beside an object store: of the machine that the driver runs on, which the line names.
    uri = tracking_address(None, "s3://bucket/runs/a")
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    said = tracked_where(uri, "s3://bucket/runs/a")
    assert said == f"{uri} on {socket.gethostname()}; MLFLOW_TRACKING_URI names a server"
    assert tracked_where(beside, "a") == beside
    job = json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_0.zip"}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job)
    assert "(it goes with the job's working directory)" in tracked_where(uri, "s3://bucket/a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert tracking_address(None, "a") == "http://elsewhere"
    assert tracking_address("none", "a") is None
    assert tracking_address("sqlite:///x.db", "a") == f"sqlite:///{tmp_path}/x.db"
