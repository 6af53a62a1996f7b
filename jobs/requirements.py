"""What a finished run has to reach: a gate for continuous integration and for supervisors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.settings import Requirement

__all__ = ["failed_requirements"]


def failed_requirements(
    report: Mapping[str, Any], requirements: Sequence[Requirement]
) -> list[str]:
    """One sentence a requirement that the run does not reach.

    Args:
        report: report.json of `eval.report`.
        requirements: of the run's configuration.
    """
    failed = []
    for wanted in requirements:
        rows = report["styles"] if wanted.style else report["methods"]
        what = f"{wanted.metric} of {wanted.method}" + (f" in {wanted.style}" * bool(wanted.style))
        cells = [
            row["cells"].get(wanted.metric)
            for row in rows
            if row["method"] == wanted.method and row["style"] == wanted.style
        ]
        mean = cells[0]["mean"] if cells and cells[0] else None
        if mean is None:
            failed.append(f"requirement: {what} was not measured")
            continue
        if wanted.at_least is not None and mean < wanted.at_least:
            failed.append(f"requirement: {what} is {mean:.4g}, at least {wanted.at_least:g} wanted")
        if wanted.at_most is not None and mean > wanted.at_most:
            failed.append(f"requirement: {what} is {mean:.4g}, at most {wanted.at_most:g} wanted")
    return failed
