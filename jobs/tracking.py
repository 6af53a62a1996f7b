"""Logging a finished run to MLflow. Results are on disk first; this only sends them, and once."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pipelines.tables.storage import Store

__all__ = ["check_tracking", "log_run", "tracking_address", "use_experiment"]

_SENT = "mlflow.json"


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


def log_run(run: str, uri: str, experiment: str, options: Mapping[str, Any] | None = None) -> str:
    """Sends a run folder's record, metrics, tables, figures and report to MLflow.

    One parent run, one nested run per method. Results that were sent there before, and are there
    still, are not sent again: a run that is resumed when all is done adds nothing.

    Returns:
        The parent's run id.
    """
    import mlflow

    store = Store(run, options)
    record = json.loads(store.read_bytes("run.json"))
    report = json.loads(store.read_bytes("report/report.json"))
    # Its first use of a database is told line by line.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    place = {"uri": uri, "experiment": experiment, "results": _digest(record, report)}
    sent = _sent_before(mlflow, store, place)
    if sent is not None:
        return sent
    use_experiment(mlflow, experiment, uri)
    with mlflow.start_run(run_name=store.url.rsplit("/", 1)[-1]) as parent:
        mlflow.log_params(_params(record))
        mlflow.set_tags(
            {"untrained": str(record["untrained"]), "code": str(record["environment"]["code"])}
        )
        mlflow.log_metrics(dict(_numbers(record)))
        _log_inputs(mlflow, store)
        mlflow.log_table(_table(report), "results.json")
        with tempfile.TemporaryDirectory() as folder:
            store.fs.get(store.path("report"), f"{folder}/report", recursive=True)
            mlflow.log_artifacts(folder)
        mlflow.log_dict(record, "run.json")
        for entry in report["methods"]:
            with mlflow.start_run(run_name=entry["method"], nested=True):
                mlflow.log_param("method", entry["method"])
                values = {"pictures": float(entry["pictures"]), **dict(_cells(entry))}
                for style in report["styles"]:
                    if style["method"] == entry["method"]:
                        values.update(
                            {f"{style['style']}/{name}": value for name, value in _cells(style)}
                        )
                mlflow.log_metrics(values)
    store.write_bytes(_SENT, json.dumps({**place, "run_id": parent.info.run_id}).encode())
    return parent.info.run_id


def _digest(record: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Of what a run found; the same after a resume that made nothing."""
    found = json.dumps([record["counts"], _table(dict(report))], sort_keys=True)
    return hashlib.sha256(found.encode()).hexdigest()


def _sent_before(mlflow: Any, store: Store, place: Mapping[str, str]) -> str | None:
    """The run that holds these results at that place."""
    if not store.exists(_SENT):
        return None
    sent = json.loads(store.read_bytes(_SENT))
    run_id = str(sent.pop("run_id"))
    if sent != place:
        return None
    try:
        found = mlflow.MlflowClient().get_run(run_id)
    except mlflow.MlflowException:
        return None
    return run_id if found.info.lifecycle_stage == "active" else None


def use_experiment(mlflow: Any, name: str, uri: str) -> None:
    """Makes the experiment the current one; a new one of a SQLite file has its artifacts beside."""
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


def _log_inputs(mlflow: Any, store: Store) -> None:
    from mlflow.data.pandas_dataset import from_pandas

    for kind in ("prompts", "styles"):
        frame = store.read_table(f"manifests/{kind}.parquet").to_pandas()
        mlflow.log_input(from_pandas(frame, name=kind), context="generation")


def _cells(entry: dict[str, Any]) -> list[tuple[str, float]]:
    """Means, interval ends and counts of one row of the report."""
    found = []
    for metric, cell in entry["cells"].items():
        for part in ("mean", "low", "high", "n", "nan"):
            if cell[part] is not None:
                name = metric if part == "mean" else f"{metric}/{part}"
                found.append((name, float(cell[part])))
    return found


def _table(report: dict[str, Any]) -> dict[str, list]:
    """The result table, one row per method, style and metric."""
    columns: dict[str, list] = {
        name: [] for name in ("method", "style", "metric", "mean", "low", "high", "n", "nan")
    }
    for entry in report["methods"] + report["styles"]:
        for metric, cell in entry["cells"].items():
            columns["method"].append(entry["method"])
            columns["style"].append(entry["style"] or "all")
            columns["metric"].append(metric)
            for part in ("mean", "low", "high", "n", "nan"):
                columns[part].append(cell[part])
    return columns
