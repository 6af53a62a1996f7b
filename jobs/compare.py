"""Differences between runs: `python jobs/compare.py A B [C ...]`, or `--log RUN_DIR`.

Exit codes: 0 where nothing was asked with `--fail` or nothing fell; 1 where something fell or the
runs cannot be compared; 2 for wrong input.
"""

from __future__ import annotations

from pipelines.run.environment import quiet

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
        typer.Argument(
            help="Two run folders or more, or MLflow runs as runs:/ID; the others are compared "
            "with the first. Needed, unless --log is given."
        ),
    ] = None,
    metrics: Annotated[Optional, typer.Option(help="Comma-separated; default: all.")] = None,
    fail: Annotated[
        list[str] | None,
        typer.Option(
            help="METRIC=MARGIN: exit code 1 if it fell by more, with 95 % confidence, or if the "
            "runs cannot be compared; may be repeated; default: none."
        ),
    ] = None,
    fail_lost: Annotated[
        float,
        typer.Option(
            help="With --fail: by how much the share of pictures with a value may fall.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.05,
    samples: Annotated[int, typer.Option(help="Pictures listed that got better or worse.")] = 3,
    json_file: Annotated[
        Optional, typer.Option("--json", help="Also write this file; default: none.")
    ] = None,
    log: Annotated[
        Optional, typer.Option(help="Send this run folder to MLflow, now; default: none.")
    ] = None,
    tracking_uri: options.TrackingUri = None,
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
    if names and margins:
        names += [name for name in margins if name not in names]
    place = (tracking_uri, given)
    record = [
        _one(addresses[0], other, names, margins, fail_lost, samples, place)
        for other in addresses[1:]
    ]
    if json_file is not None:
        Path(json_file).write_text(json.dumps(_plain(record), indent=1), "utf-8")
    fallen = [line for entry in record for line in entry["failures"]]
    for line in fallen:
        console.print(f"FELL  {line}", markup=False, soft_wrap=True)
    if margins and not fallen:
        console.print("passes: nothing fell by more than its margin")
    if fallen:
        raise SystemExit(1)


def _one(
    first: str,
    other: str,
    names: list[str] | None,
    margins: Mapping[str, float],
    lost: float,
    most: int,
    place: tuple[str | None, Given],
) -> dict[str, Any]:
    """Compares one run, prints it and returns its entry in the JSON file."""
    from eval.compare import NothingInCommonError, failures

    sides = _read(first, *place), _read(other, *place)
    unlike = _mismatches(sides, margins, lost) if margins else []
    entry: dict[str, Any] = {"run": other, "against": first, "rows": [], "tests": []}
    try:
        rows, changes = _compared(*sides, names, most, margins, place)
    except NothingInCommonError as error:
        if not margins:
            raise
        return entry | {"failures": [f"nothing to compare: {error}", *unlike]}
    _show(first, other, rows, changes)
    tested = {row.metric for row in rows}
    gate = failures(rows, {name: m for name, m in margins.items() if name in tested})
    for test in gate.tests:
        console.print(_told(test), markup=False, soft_wrap=True)
    return entry | {"rows": rows, "tests": gate.tests, "failures": [*unlike, *gate.fallen]}


def _told(test: Any) -> str:
    """What a test of the gate found, and what it could have found."""
    if math.isnan(test.loss):
        return f"{test.method}: {test.metric} has no value to compare (margin {test.margin:g})"
    changed = f"{test.method}: {test.metric} changed by {-test.loss:+.4f} for the better"
    if math.isnan(test.at_least):
        return f"{changed}; too few people carry an interval (margin {test.margin:g})"
    if math.isnan(test.seen):
        return f"{changed}; no two pairs differ in their change (margin {test.margin:g})"
    return (
        f"{changed}; a loss of {test.seen:.4f} would be seen four times in five "
        f"(margin {test.margin:g})"
    )


def _three(number: float, sign: str = "") -> str:
    return "–" if math.isnan(number) else f"{number:{sign}.3f}"


def _show(first: str, other: str, rows: list[Any], changes: Mapping[str, Any]) -> None:
    shown = [
        {
            "method": row.method,
            "metric": row.metric,
            "before": _three(row.before),
            "after": _three(row.after),
            "difference": _three(row.mean, "+"),
            "95 %": "–" if math.isnan(row.low) else f"{row.low:+.3f} {row.high:+.3f}",
            "n": str(row.n),
        }
        for row in rows
    ]
    how = "pairs of pictures" if rows[0].paired else "means of reports, not paired"
    show_table(f"{other} against {first} ({how})", list(shown[0]), shown)
    over = sorted({row.over for row in rows if row.over})
    console.print(f"Intervals are over {' or '.join(over) or 'nothing: too little varies'}.")
    unpaired = sum(row.unpaired for row in rows)
    if unpaired:
        console.print(
            f"{unpaired} values have no counterpart of equal person, prompt text, style and seed, "
            "or are NaN in one of the runs.",
            soft_wrap=True,
        )
    for name, ends in changes.items():
        for word, some in zip(("better", "worse"), ends, strict=True):
            for one in some:
                console.print(
                    f"{name} {word}: {one.before:.3f} -> {one.after:.3f}  {one.method}, "
                    f"{one.identity_id}, {one.prompt_id}, {one.style}, seed {one.seed}",
                    markup=False,
                )


def _send(run: str, tracking_uri: str | None, given: Given) -> None:
    from eval.places import shown
    from eval.reports.report import write_report
    from jobs.tracked_run import log_run
    from jobs.tracking import check_tracking, experiment_name, reason_of, tracking_address
    from pipelines.run.failures import RunFailedError
    from pipelines.tables.storage import Store

    uri = tracking_address(tracking_uri, run)
    if uri is None:
        raise ValueError(f"tracking URI is {tracking_uri!r}, allowed with --log: an address")
    store = Store(run, given)
    if not store.exists("run.json"):
        raise ValueError(f"{store.url} is no run folder: it has no run.json")
    if not store.exists("report/report.json"):
        write_report(run, options=given)
    record = json.loads(store.read_bytes("run.json"))
    lacking = [name for name in ("config", "counts", "timings") if name not in record]
    if lacking:
        raise ValueError(
            f"{store.url} is no finished run: its run.json has no {lacking[0]!r}, allowed: one of "
            "the benchmark that came to its end"
        )
    config = record["config"] or {}
    experiment = experiment_name(config.get("experiment"))
    check_tracking(uri, experiment)
    try:
        sent = log_run(run, uri, experiment, given)
    except Exception as error:
        raise RunFailedError(f"{uri} did not take the run: {reason_of(error)}") from error
    console.print(f"MLflow:   {shown(uri)}, run {sent}", markup=False)


def _margin(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ValueError(f"margin is {text!r}, allowed: METRIC=NUMBER") from None


def _read(address: str, uri: str | None, given: Given) -> Any:
    """A run folder's tables, or the report of an MLflow run."""
    from eval.run_data import read_run

    if address.startswith("runs:/"):
        return _report(address, uri, given)
    return read_run(address, given)


def _mismatches(sides: tuple[Any, Any], margins: Mapping[str, float], lost: float) -> list[str]:
    from eval.comparable import describe, mismatches

    described = []
    for side in sides:
        if not isinstance(side, dict):
            described.append(describe(side))
        elif "comparable" in side:
            described.append(side["comparable"])
        else:
            raise ValueError(
                "a report does not say its people, texts and seeds, allowed: one made anew with "
                "`infinite-id report RUN`"
            )
    known = set(described[0]["judges"]) | set(described[1]["judges"])
    for name in margins:
        if name not in known:
            raise ValueError(f"metric is {name!r}, allowed: {', '.join(sorted(known))}")
    return mismatches(described[0], described[1], list(margins), lost)


def _compared(
    first: Any,
    second: Any,
    names: list[str] | None,
    most: int,
    margins: Mapping[str, float],
    place: tuple[str | None, Given],
) -> tuple[list[Any], dict[str, Any]]:
    """(rows, changes): paired where both runs are folders, else of their reports."""
    from eval.compare import compare_reports, compare_runs

    folders = [side for side in (first, second) if not isinstance(side, dict)]
    if len(folders) == 2:
        shared = [name for name in first.scores if name in second.scores]
        # A metric that is gone is a reason to fail, and none to say nothing of the others.
        names = [name for name in names if name in shared or name not in margins] if names else None
        return compare_runs(first, second, metrics=names, most=most)
    reports = [
        side if isinstance(side, dict) else _report(str(side.folder.address), *place)
        for side in (first, second)
    ]
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
