"""The runtime environment of a submitted job and that of this project's drivers go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ray.job_config import JobConfig
from ray.runtime_env.runtime_env import _merge_runtime_env

from pipelines.plan.job import job_folder
from pipelines.run.environment import WORKER_ENVIRONMENT
from pipelines.run.session import _worker_environment

FILE = Path(__file__).parents[2] / "cluster" / "runtime_env.yaml"
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def test_the_documented_file_and_a_driver_are_merged_by_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {**yaml.safe_load(FILE.read_text()), "working_dir": "gcs://_ray_pkg_0.zip"}
    own.pop("excludes")
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": own, "metadata": {}}))
    job = JobConfig.from_json({"runtime_env": own, "metadata": {}}).runtime_env
    # This is what Ray refuses: a variable in both, whatever its value.
    assert _merge_runtime_env(job, {"env_vars": dict(WORKER_ENVIRONMENT)}) is None
    merged = _merge_runtime_env(job, {"env_vars": _worker_environment()})
    assert merged is not None
    assert merged["env_vars"]["OMP_NUM_THREADS"] == own["env_vars"]["OMP_NUM_THREADS"]
    assert merged["env_vars"].keys() >= WORKER_ENVIRONMENT.keys()
    assert job_folder() == Path.cwd()


def test_outside_a_job_a_driver_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    assert _worker_environment() == WORKER_ENVIRONMENT
    assert job_folder() is None
