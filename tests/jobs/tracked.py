"""A finished run folder, and what MLflow has of it, for the tests of tracking."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow

from eval.reports.report import write_report
from pipelines.tables.demo_people import demo_identities
from pipelines.tables.manifest import (
    default_prompts,
    default_styles,
    write_manifests,
)
from tests.eval.runs import write_run

__all__ = ["parents", "write_finished"]


def write_finished(place: Path) -> Path:
    """A run folder as the benchmark leaves it, with its report."""
    write_run(place, people=2, seeds=1)
    record = json.loads((place / "run.json").read_text())
    record["environment"]["code"] = "abc"
    record["counts"] = {"pictures": 12}
    record["created"] = "2026-11-24T02:00:00+00:00"
    record["updated"] = "2026-11-24T02:10:00+00:00"
    record["config"] |= {"seeds": "0", "num_inference_steps": None, "weights": {"a$b": "x" * 7000}}
    (place / "run.json").write_text(json.dumps(record))
    write_manifests(
        str(place / "manifests"),
        identities=demo_identities(),
        prompts=default_prompts(),
        styles=default_styles(),
    )
    summary = {"low": None, "high": None, "n": 4, "nan": 0, "identities": 2, "over": ""}
    found = {
        method: {
            "margin": {"mean": 0.25, **summary}, "rank1": {"mean": 0.5, **summary}, "by_person": [],
        }
        for method in ("infinite_id", "ip_adapter", "text_only")
    }  # fmt: skip
    identity = {"people": 2, "chance": 0.5, "held_out": 0, "methods": found}
    (place / "sets.json").write_text(json.dumps({"identity": identity}))
    write_report(place)
    return place


def parents(uri: str, experiment: str = "test") -> list[mlflow.entities.Run]:
    """The runs of an experiment that are nobody's child."""
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
