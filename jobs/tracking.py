"""Logging a finished run to MLflow. Results are on disk first; this only sends them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

__all__ = ["check_tracking", "log_run", "tracking_address"]


def tracking_address(uri: str | None, output: str) -> str | None:
    """Where to log: `uri`, else sqlite beside the run folder; None for "none" and remote runs."""
    if uri == "none":
        return None
    if uri:
        return uri
    if "://" in output:
        return None
    return f"sqlite:///{Path(output).absolute().parent / 'mlflow.db'}"


def check_tracking(uri: str | None) -> None:
    """Asks a tracking server whether it lives, before anything is loaded.

    Raises:
        ValueError: it does not answer, or the address is of no known kind.
    """
    if uri is None:
        return
    scheme = urlparse(uri).scheme
    if scheme == "sqlite":
        folder = Path(uri.removeprefix("sqlite:///")).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"tracking store {uri} cannot be written: {error.strerror}") from error
        return
    if scheme not in ("http", "https"):
        if scheme in ("postgresql", "mysql", "mssql", "databricks"):
            return
        raise ValueError(
            f"tracking URI is {uri!r}, allowed: sqlite:///FILE, http(s)://SERVER, a database "
            "address, databricks, or none"
        )
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):  # noqa: S310
            return
    except urllib.error.HTTPError:
        return  # it answers; a proxy may guard /health
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"tracking server {uri} does not answer ({reason}), allowed: a live one, or "
            "--tracking-uri none"
        ) from error


def log_run(run: str, uri: str, experiment: str) -> str:
    """Sends a run folder's record, metrics, tables, figures and report to MLflow.

    One parent run, one nested run a method. Returns the parent's run id.
    """
    import mlflow

    folder = Path(run)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    mlflow.set_tracking_uri(uri)
    _experiment(mlflow, experiment, uri)
    with mlflow.start_run(run_name=folder.name) as parent:
        mlflow.log_params(_params(record))
        mlflow.set_tags(
            {"untrained": str(record["untrained"]), "code": str(record["environment"]["code"])}
        )
        for name, value in _numbers(record):
            mlflow.log_metric(name, value)
        _log_inputs(mlflow, folder)
        mlflow.log_artifact(str(folder / "run.json"))
        mlflow.log_artifacts(str(folder / "report"), "report")
        for method, metrics in report["methods"].items():
            with mlflow.start_run(run_name=method, nested=True):
                mlflow.log_param("method", method)
                for name, value in metrics.items():
                    mlflow.log_metric(name, value)
    return parent.info.run_id


def _experiment(mlflow: Any, name: str, uri: str) -> None:
    if mlflow.get_experiment_by_name(name) is None:
        location = None
        if uri.startswith("sqlite:///"):
            # The default is ./mlruns of whatever folder the job was started in.
            location = (Path(uri.removeprefix("sqlite:///")).parent / "mlruns").as_uri()
        mlflow.create_experiment(name, artifact_location=location)
    mlflow.set_experiment(name)


def _params(record: dict[str, Any]) -> dict[str, str]:
    flat = {**record["config"], **record["revisions"]}
    flat.pop("resources", None)
    return {key: str(value)[:500] for key, value in flat.items() if value is not None}


def _numbers(record: dict[str, Any]) -> list[tuple[str, float]]:
    found = [(f"count/{name}", float(n)) for name, n in record["counts"].items()]
    for phase, entry in record["timings"].items():
        found.append((f"seconds/{phase.replace(',', '')}", float(entry["seconds"])))
    return found


def _log_inputs(mlflow: Any, folder: Path) -> None:
    import pandas as pd
    from mlflow.data import from_pandas

    for kind in ("prompts", "styles"):
        file = folder / "manifests" / f"{kind}.parquet"
        frame = pd.read_parquet(file)
        mlflow.log_input(from_pandas(frame, source=str(file), name=kind), context="generation")
