"""`benchmark --scenario NAME`: one scenario, or all of them with one page over their reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from jobs.console import console
from jobs.tracking import check_tracking, experiment_name, tracking_address
from pipelines.benchmark import RunSummary
from pipelines.run.failures import RunFailedError
from pipelines.run.session import ray_session
from pipelines.scenarios import LackingError, load_scenario, run_scenario, scenario_names
from pipelines.settings import BenchmarkConfig

__all__ = ["CONFIGS", "list_scenarios", "run_scenarios"]

CONFIGS = Path(__file__).parent / "configs"

Finish = Callable[[RunSummary, BenchmarkConfig], None]


def list_scenarios() -> None:
    """Prints every scenario with a line."""
    for name in scenario_names(CONFIGS):
        scenario, _ = load_scenario(CONFIGS, name)
        console.print(f"{name}: {scenario.title}", markup=False)


def run_scenarios(
    name: str,
    overrides: Mapping[str, Any],
    finish: Finish,
    *,
    command: str,
    progress: Callable[[str, int, int], None],
) -> None:
    """Runs one scenario into the output folder, or "all" into one folder each below it.

    With "all" none costs the others their run, but the exit code is 1 unless each one reaches
    what it has to. One that lacks what it needs is left out with a line.

    Args:
        name: of a scenario, or "all".
        overrides: configuration values of the command line.
        finish: called with each finished run: report and tracking; raises typer.Exit where the
            run does not reach what it has to.
        command: for the record.
        progress: see `pipelines.benchmark.run_benchmark`.

    Raises:
        ValueError: unknown scenario or wrong input.
        typer.Exit: with "all", once the page is written: a scenario failed, or is not good enough.
        RunFailedError: with "all": every scenario failed.
    """
    output = overrides.get("output") or "runs/scenarios"
    check_tracking(tracking_address(overrides.get("tracking_uri"), output), experiment_name(None))
    if name != "all":
        scenario, run = load_scenario(CONFIGS, name)
        given = {**overrides, "output": overrides.get("output") or f"runs/{name}"}
        finish(*run_scenario(scenario, run, given, name=name, command=command, progress=progress))
        return
    from eval.reports.collection import write_collection

    failed: dict[str, str] = {}
    unmet = False
    names = scenario_names(CONFIGS)
    lacking: dict[str, str] = {}
    with ray_session(overrides.get("address")):
        for one in list(names):
            console.print(f"[bold]{one}[/bold]")
            scenario, run = load_scenario(CONFIGS, one)
            given = {**overrides, "output": f"{output}/{one}"}
            try:
                made = run_scenario(
                    scenario, run, given, name=one, command=command, progress=progress
                )
                finish(*made)
            except typer.Exit:
                # It has a report, so the page shows it like the others.
                unmet = True
                console.print(f"failed: {one}: a requirement is not met, see above", markup=False)
            except LackingError as error:
                names.remove(one)
                lacking[one] = str(error)
                console.print(f"left out: {one}: {error}", markup=False)
            except Exception as error:
                # One scenario that fails must not cost the others; the page says which and why.
                failed[one] = " ".join(str(error).split())[:300]
                console.print(f"failed: {one}: {failed[one]}", markup=False)
    if not names:
        first, reason = next(iter(lacking.items()))
        raise ValueError(f"every scenario was left out, the first, {first}, with: {reason}")
    if len(failed) == len(names):
        raise RunFailedError(f"every scenario failed, the first with: {failed[names[0]]}")
    console.print(f"all:      {write_collection(output, names, failed)}")
    if failed or unmet:
        raise typer.Exit(1)
