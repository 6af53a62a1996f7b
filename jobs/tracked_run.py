"""What MLflow gets of a finished run, laid out so that runs can be compared there.

A parent run with the scores of the run's main method and every setting, and below it a run a
method. All have the same few metrics under the same names: means. Intervals, counts and styles are
rows of the artifact `results.json`, which MLflow shows as a table.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.places import shown
from jobs.tracking import experiment_id, mlflow_client
from pipelines.tables.storage import Store

__all__ = ["log_run"]

_SENT = "mlflow.json"
_PARTS = ("mean", "low", "high", "n", "nan")
_LONGEST_PARAM = 6000
_BATCH = 100  # of parameters or tags in one call
_UNKNOWN = re.compile(r"[^/\w.\- :]")  # what a key may not hold


def log_run(run: str, uri: str, experiment: str, options: Mapping[str, Any] | None = None) -> str:
    """Sends a run folder's record, metrics, tables, figures and report to MLflow.

    Results that were sent there before, and are there still, are not sent again: a run that is
    resumed when all is done adds nothing. What was sent in part is deleted.

    Returns:
        The parent's run id.
    """
    store = Store(run, options)
    record = json.loads(store.read_bytes("run.json"))
    report = json.loads(store.read_bytes("report/report.json"))
    place = {"uri": shown(uri), "experiment": experiment, "results": _digest(record, report)}
    client = mlflow_client(uri)
    sent = _sent_before(client, store, place)
    if sent is not None:
        return sent
    sender = _Sender(client, experiment_id(client, experiment, uri), store, record, report)
    with sender.all_or_nothing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas and MLflow about each other
        run_id = sender.send()
    store.write_bytes(_SENT, json.dumps({**place, "run_id": run_id}).encode())
    return run_id


def _digest(record: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Of what a run found; the same after a resume that made nothing."""
    found = json.dumps([record["counts"], _table(report, None)], sort_keys=True)
    return hashlib.sha256(found.encode()).hexdigest()


def _sent_before(client: Any, store: Store, place: Mapping[str, str]) -> str | None:
    """The run that holds these results at that place."""
    from mlflow import MlflowException

    if not store.exists(_SENT):
        return None
    sent = json.loads(store.read_bytes(_SENT))
    run_id = str(sent.pop("run_id"))
    if sent != place:
        return None
    try:
        found = client.get_run(run_id)
    except MlflowException:
        return None
    return run_id if found.info.lifecycle_stage == "active" else None


class _Sender:
    """One run folder on its way into one experiment."""

    def __init__(
        self,
        client: Any,
        experiment: str,
        store: Store,
        record: Mapping[str, Any],
        report: Mapping[str, Any],
    ) -> None:
        self._client, self._experiment, self._store = client, experiment, store
        self._record, self._report = record, report
        self._name = store.url.rstrip("/").rpartition("/")[2] or store.url
        self._begun: list[str] = []

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Deletes what an error inside left half sent."""
        try:
            yield
        except BaseException:
            for run_id in reversed(self._begun):
                with contextlib.suppress(Exception):
                    self._client.delete_run(run_id)
            raise

    def send(self) -> str:
        """The parent's run id."""
        settings, tags = self._settings(), self._tags()
        datasets = list(self._datasets())
        headline = self._headline()
        with tempfile.TemporaryDirectory() as scratch:
            pictures = self._download(Path(scratch))
            parent = self._run(
                self._name,
                {**tags, "method": ", ".join(e["method"] for e in self._report["methods"])},
                {**settings, "headline_method": headline["method"]},
                {**_means(self._report, headline), **self._counts()},
                os.environ.get("MLFLOW_RUN_ID"),
                datasets,
            )
            self._client.log_artifacts(parent, scratch)
            self._client.log_dict(parent, dict(self._record), "run.json")
            self._client.log_table(parent, _table(self._report, None), "results.json")
            for entry in self._report["methods"]:
                method = entry["method"]
                revisions = (self._report.get("model_revisions") or {}).get(method) or []
                child = self._run(
                    f"{self._name} {method}",
                    {**tags, "method": method},
                    {**settings, "method": method, "model_revision": ", ".join(revisions)},
                    {**_means(self._report, entry), "pictures": float(entry["pictures"])},
                    parent,
                    datasets,
                )
                self._client.log_table(child, _table(self._report, method), "results.json")
                for picture in pictures:
                    self._client.log_artifact(child, str(picture))
                self._end(child)
        self._end(parent)
        return parent

    def _run(
        self,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        parent: str | None,
        datasets: list[Any],
    ) -> str:
        from mlflow.entities import Metric, Param

        own = {**tags, **({"mlflow.parentRunId": parent} if parent else {})}
        begin = _milliseconds(self._record["created"])
        run = self._client.create_run(self._experiment, start_time=begin, run_name=name, tags=own)
        run_id = str(run.info.run_id)
        self._begun.append(run_id)
        values = [Param(_key(key), _cut(value)) for key, value in params.items() if value != ""]
        for first in range(0, len(values), _BATCH):
            self._client.log_batch(run_id, params=values[first : first + _BATCH])
        end = _milliseconds(self._record["updated"])
        found = [Metric(_key(key), value, end, 0) for key, value in metrics.items()]
        self._client.log_batch(run_id, metrics=found)
        self._client.log_inputs(run_id, datasets=datasets)
        return run_id

    def _end(self, run_id: str) -> None:
        end = _milliseconds(self._record["updated"])
        self._client.set_terminated(run_id, "FINISHED", end_time=end)

    def _headline(self) -> Mapping[str, Any]:
        """The method whose scores stand for the run: the one that differences are taken to."""
        methods = self._report["methods"]
        wanted = self._report.get("reference")
        return next((entry for entry in methods if entry["method"] == wanted), methods[0])

    def _settings(self) -> dict[str, str]:
        """Every setting; of those left to the preset, what the requests have."""
        flat = dict(_flat(self._record["config"]))
        flat |= {f"revision.{key}": str(value) for key, value in self._record["revisions"].items()}
        names = self._store.names("requests", ".parquet")
        used = ["height", "width", "num_inference_steps", "guidance_scale"]
        rows = self._store.read_table(f"requests/{names[0]}", used).slice(0, 1) if names else None
        for row in rows.to_pylist() if rows is not None else ():
            flat |= {name: str(value) for name, value in row.items()}
        return flat

    def _counts(self) -> dict[str, float]:
        # A slash in a name would give them a section of charts above that of the scores.
        counts = self._record["counts"].items()
        found = {name: float(n) for name, n in counts if isinstance(n, int | float)}
        if "seconds" in self._record:
            found["seconds"] = float(self._record["seconds"])
        return found

    def _tags(self) -> dict[str, str]:
        found = {
            "preset": str(self._record["preset"]),
            "code": str(self._record["environment"]["code"]),
            "dataset": self._dataset(),
            "untrained": str(self._record["untrained"]),
            "mlflow.source.name": "infinite-id",
            "mlflow.note.content": f"`{self._record.get('command') or 'infinite-id'}`",
        }
        with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
            found["mlflow.user"] = getpass.getuser()
        return found

    def _dataset(self) -> str:
        """Of who, what and in which style; the same photos elsewhere give the same."""
        digest = hashlib.sha256()
        for name in self._store.names("embeddings", ".parquet"):
            people = self._store.read_table(f"embeddings/{name}", ["identity_id", "digest"])
            digest.update(repr(sorted(map(str, people.to_pylist()))).encode())
        for kind in ("prompts", "styles", "mixes", "groups"):
            if self._store.exists(f"manifests/{kind}.parquet"):
                rows = self._store.read_table(f"manifests/{kind}.parquet").to_pylist()
                # Runs without groups keep the name that they had before there were any.
                if rows or kind != "groups":
                    digest.update(repr(rows).encode())
        return digest.hexdigest()[:16]

    def _datasets(self) -> Iterator[Any]:
        from mlflow.data.pandas_dataset import from_pandas
        from mlflow.entities import DatasetInput, InputTag

        for kind in ("identities", "prompts", "styles", "mixes", "groups"):
            name = f"manifests/{kind}.parquet"
            if not self._store.exists(name):
                continue
            with self._store.parquet(name) as file:
                columns = [column for column in file.schema_arrow.names if column != "photos"]
                frame = file.read(columns=columns).to_pandas()
            if frame.empty:
                continue
            source = f"{self._store.url}/{name}"
            dataset = from_pandas(frame.astype(str), source=source, name=kind)
            yield DatasetInput(
                dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "generation")]
            )

    def _download(self, folder: Path) -> list[Path]:
        """Copies the report into `folder`; the paths of its grid and its scatter plot."""
        root = self._store.path("report")
        for path in self._store.fs.find(root):
            target = folder / "report" / path[len(root) :].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._store.fs.cat_file(path))
        figures = folder / "report" / "figures"
        wanted = (figures / f"{name}.png" for name in ("grid", "scatter"))
        return [path for path in wanted if path.exists()]


def _milliseconds(moment: str) -> int:
    return int(datetime.datetime.fromisoformat(moment).timestamp() * 1000)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings as text, nested ones as `weights.photomaker`; those left open are left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", value if isinstance(value, str) else json.dumps(value)


def _key(name: str) -> str:
    """A name as MLflow takes it: another character becomes its code between underscores."""
    return _UNKNOWN.sub(lambda found: f"_{ord(found[0]):x}_", name)[:250]


def _cut(value: str) -> str:
    note = " ... (whole in run.json)"
    return value if len(value) <= _LONGEST_PARAM else value[: _LONGEST_PARAM - len(note)] + note


def _cells(report: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """metric -> summary of a row of the report; margin and rank-1 are of a method in all styles."""
    methods = (report["sets"].get("identity") or {}).get("methods") or {}
    found = {} if entry["style"] else methods.get(entry["method"]) or {}
    own = {f"identity_{name}": found[name] for name in ("margin", "rank1") if name in found}
    return own | dict(entry["cells"])


def _means(report: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, float]:
    cells = _cells(report, entry).items()
    return {name: float(cell["mean"]) for name, cell in cells if cell["mean"] is not None}


def _table(report: Mapping[str, Any], method: str | None) -> dict[str, list]:
    """The result table, one row a method, style and metric; of one method where it is named."""
    columns: dict[str, list] = {name: [] for name in ("method", "style", "metric", *_PARTS)}
    for entry in [*report["methods"], *report["styles"]]:
        if method is not None and entry["method"] != method:
            continue
        for metric, cell in _cells(report, entry).items():
            columns["method"].append(entry["method"])
            columns["style"].append(entry["style"] or "all")
            columns["metric"].append(metric)
            for part in _PARTS:
                columns[part].append(cell[part])
    return columns
