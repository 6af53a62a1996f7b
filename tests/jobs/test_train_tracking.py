"""A training's MLflow run: what it holds, and that its failure is not the training's."""

from __future__ import annotations

import contextlib
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from jobs.train import _tracked
from pipelines.training.config import TrainingConfig
from tests.full_disk import files_of_at_most

ROWS = [
    {"step": step, "loss": 1.0 / step, "pictures_per_second": 3.0, "gradient_norm": 0.5}
    for step in (10, 20)
]


@pytest.fixture
def settings(tmp_path: Path) -> TrainingConfig:
    (tmp_path / "run" / "samples").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "run" / "samples" / "step-000000020.png")
    (tmp_path / "run" / "adapter.safetensors").write_bytes(b"weights")
    return TrainingConfig(data="x", output=str(tmp_path / "run"))


@pytest.fixture
def uri(database: Path) -> str:
    return f"sqlite:///{database}"


def only_run(uri: str) -> mlflow.entities.Run:
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("infinite-id-training")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_the_run_holds_figures_samples_and_the_adapter(settings, uri, tmp_path):
    with _tracked(settings, uri) as log:
        log(ROWS[:1])
        log(ROWS)
    run = only_run(uri)
    assert run.info.status == "FINISHED"
    history = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(10, 0.1), (20, 0.05)]
    names = {path.name for path in (tmp_path / "mlruns").rglob("*") if path.is_file()}
    assert "adapter.safetensors" in names
    assert any(name.startswith("samples") for name in names)


def test_a_training_that_fails_is_marked(settings, uri):
    with pytest.raises(KeyError), _tracked(settings, uri):
        raise KeyError("x")
    assert only_run(uri).info.status == "FAILED"


@pytest.mark.parametrize("when", ["begin", "log", "end"])
def test_a_tracking_store_that_fails_is_said_once_and_ends_nothing(
    settings, database, uri, capfd, when
):
    with contextlib.ExitStack() as disk:
        if when == "begin":
            database.unlink()
            disk.enter_context(files_of_at_most(1024))
        with _tracked(settings, uri) as log:
            if when == "log":
                disk.enter_context(files_of_at_most(1024))
            log(ROWS[:1])
            log(ROWS)
            if when == "end":
                disk.enter_context(files_of_at_most(1024))
    said, errors = capfd.readouterr()
    assert said.count("MLflow: logging stopped: ") == 1, said
    assert said.count("\n") == 1
    assert "Traceback" not in errors
    assert mlflow.active_run() is None
