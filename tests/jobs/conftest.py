"""What the tests of tracking share: MLflow's empty database and a finished run, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.jobs.tracked import write_finished


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database: MLflow takes seconds for the tables of a new one."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    import mlflow

    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Path:
    """A database of this test alone."""
    return Path(shutil.copy(template, tmp_path / "mlflow.db"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, to be copied."""
    return write_finished(tmp_path_factory.mktemp("finished") / "run")
