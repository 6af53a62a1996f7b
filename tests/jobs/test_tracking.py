"""Logging a run folder to MLflow: once, wherever and whenever it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from eval.reports.report import write_report
from jobs.tracking import log_run
from pipelines.tables.manifest import (
    default_prompts,
    default_styles,
    demo_identities,
    write_manifests,
)
from tests.eval.runs import write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    write_run(place, people=2, seeds=1)
    record = json.loads((place / "run.json").read_text())
    record["environment"]["code"] = "abc"
    record["counts"] = {"pictures": 12}
    (place / "run.json").write_text(json.dumps(record))
    write_manifests(
        str(place / "manifests"),
        identities=demo_identities(),
        prompts=default_prompts(),
        styles=default_styles(),
    )
    write_report(place)
    return place


def parents(uri: str) -> list[str]:
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("test")
    runs = client.search_runs([experiment.experiment_id])
    return [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]


def test_results_are_logged_once(folder: Path, tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = log_run(str(folder), uri, "test")
    assert log_run(str(folder), uri, "test") == first
    assert parents(uri) == [first]
    record = json.loads((folder / "run.json").read_text())
    record["counts"]["pictures"] = 13
    (folder / "run.json").write_text(json.dumps(record))
    second = log_run(str(folder), uri, "test")
    assert sorted(parents(uri)) == sorted([first, second])


def test_another_store_or_a_deleted_run_gets_them_again(folder: Path, tmp_path: Path):
    uris = [f"sqlite:///{tmp_path / name}" for name in ("one.db", "two.db")]
    first = log_run(str(folder), uris[0], "test")
    assert log_run(str(folder), uris[1], "test") != first
    again = log_run(str(folder), uris[0], "test")
    mlflow.MlflowClient(uris[0]).delete_run(again)
    last = log_run(str(folder), uris[0], "test")
    assert last not in (first, again)
