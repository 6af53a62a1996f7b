"""Differences between runs: `python jobs/compare.py A B [C ...]`, or `--log RUN_DIR`."""

from __future__ import annotations

from pipelines.run.session import quiet

quiet()

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import options
from jobs.console import console, show_table, user_errors

__all__ = [
    "compare",
]

Optional = str | None
Given = Mapping[str, Any] | None


@user_errors()
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders, or MLflow runs as runs:/ID; the first is compared to."),
    ] = None,
    metrics: Annotated[Optional, typer.Option(help="Comma-separated; default: all.")] = None,
    fail: Annotated[
        list[str] | None,
        typer.Option(help="METRIC=MARGIN: exit code 1 if it fell by more; may be repeated."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Pictures listed that got better or worse.")] = 3,
    json_file: Annotated[Optional, typer.Option("--json", help="Also write this file.")] = None,
    log: Annotated[Optional, typer.Option(help="Send this run folder to MLflow, now.")] = None,
    tracking_uri: Annotated[Optional, typer.Option(help="MLflow; default: sqlite there.")] = None,
    storage_options: options.StorageOptions = None,
) -> None:
    """Differences between runs with intervals; a gate for CI; or send a run to MLflow later."""
    given = options.storage_options(storage_options)
    if log is not None:
        _send(log, tracking_uri, given)
        return
    addresses = runs or []
    if len(addresses) < 2:
        raise ValueError(f"got {len(addresses)} runs, allowed: 2 or more, or --log RUN_DIR")
    margins = dict(_margin(text) for text in fail or [])
    names = options.names_of(metrics)
    from eval.compare import failures

    fallen, record = [], []
    for other in addresses[1:]:
        rows, changes = _compared(addresses[0], other, names, samples, tracking_uri, given)
        shown = [
            {
                "method": row.method,
                "metric": row.metric,
                "before": row.before,
                "after": row.after,
                "difference": f"{row.mean:+.3f}",
                "95 %": f"{row.low:+.3f} {row.high:+.3f}",
                "n": str(row.n),
            }
            for row in rows
        ]
        how = "pairs of pictures" if rows[0].paired else "means of reports, not paired"
        show_table(f"{other} against {addresses[0]} ({how})", list(shown[0]), shown)
        for name, ends in changes.items():
            for word, some in zip(("better", "worse"), ends, strict=True):
                for one in some:
                    console.print(
                        f"{name} {word}: {one.before:.3f} -> {one.after:.3f}  {one.method}, "
                        f"{one.identity_id}, {one.prompt_id}, {one.style}, seed {one.seed}",
                        markup=False,
                    )
        lost = failures(rows, margins)
        fallen += lost
        record.append({"run": other, "against": addresses[0], "rows": rows, "failures": lost})
    if json_file is not None:
        Path(json_file).write_text(json.dumps(_plain(record), indent=1), "utf-8")
    for line in fallen:
        console.print(f"FELL  {line}", markup=False)
    if fallen:
        raise SystemExit(1)


def _send(run: str, tracking_uri: str | None, given: Given) -> None:
    from eval.reports.report import write_report
    from jobs.tracking import check_tracking, log_run, tracking_address
    from pipelines.tables.storage import Store, shown

    uri = tracking_address(tracking_uri, run)
    if uri is None:
        raise ValueError(f"tracking URI is {tracking_uri!r}, allowed with --log: an address")
    check_tracking(uri)
    store = Store(run, given)
    if not store.exists("run.json"):
        raise ValueError(f"{store.url} is no run folder: it has no run.json")
    if not store.exists("report/report.json"):
        write_report(run, options=given)
    config = json.loads(store.read_bytes("run.json")).get("config") or {}
    experiment = config.get("experiment", "infinite-id")
    sent = log_run(run, uri, experiment, given)
    console.print(f"MLflow:   {shown(uri)}, run {sent}", markup=False)


def _margin(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ValueError(f"margin is {text!r}, allowed: METRIC=NUMBER") from None


def _compared(
    first: str,
    second: str,
    names: list[str] | None,
    most: int,
    uri: str | None,
    given: Given,
) -> tuple[list[Any], dict[str, Any]]:
    """(rows, changes): paired where both runs are folders, else of their reports."""
    from eval.compare import compare_reports, compare_runs
    from eval.run_data import read_run

    if not first.startswith("runs:/") and not second.startswith("runs:/"):
        return compare_runs(
            read_run(first, given), read_run(second, given), metrics=names, most=most
        )
    reports = [_report(address, uri, given) for address in (first, second)]
    return compare_reports(*reports, metrics=names), {}


def _report(address: str, uri: str | None, given: Given) -> dict[str, Any]:
    """report.json of a run folder or of an MLflow run."""
    if not address.startswith("runs:/"):
        from pipelines.tables.storage import Store

        return dict(json.loads(Store(address, given).read_bytes("report/report.json")))
    import mlflow

    if uri is None:
        raise ValueError(f"{address} is an MLflow run, allowed with it: --tracking-uri")
    mlflow.set_tracking_uri(uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{address}/report/report.json", dst_path=folder
            )
        except (mlflow.MlflowException, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{address} has no report at {uri}: {reason}") from error
        return dict(json.loads(Path(path).read_text("utf-8")))


def _plain(value: Any) -> Any:
    """For JSON: dataclasses as mappings, NaN as null."""

    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    typer.run(compare)
