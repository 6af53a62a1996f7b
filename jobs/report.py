"""The report of a run and how far it is: `infinite-id report`, `infinite-id status`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from jobs import options
from jobs.console import console, show_table, user_errors

__all__ = [
    "report",
    "status",
]

_IDENTITY = {"margin": "margin", "rank-1": "rank1"}
_GROUPS = {
    "all found": "faces_found",
    "mixed up": "mixed_up",
    "identity": "identity",
    "group margin": "group_margin",
}
_SHORT = {
    "face_found": "face",
    "identity_facenet": "FaceNet",
    "text_score": "text",
    "image_score": "image",
    "style_first": "styled",
}


def show_report(run: str, storage_options: Mapping[str, Any] | None = None) -> None:
    """Writes a run's report and prints its means.

    Args:
        run: address of its folder.
        storage_options: by scheme.
    """
    from eval.reports.report import write_report
    from pipelines.tables.storage import Store

    paths = write_report(run, options=storage_options)
    record = json.loads(Store(run, storage_options).read_bytes("report/report.json"))
    identity = record["sets"].get("identity") or {}
    title = "Means; intervals are in the report"
    if identity:
        title += f"; rank-1 by chance is {identity['chance']:.3f}"
    rows = []
    for method in record["methods"]:
        styles = [row for row in record["styles"] if row["method"] == method["method"]]
        of_method = (identity.get("methods") or {}).get(method["method"]) or {}
        for name, entry in ((method["method"], method), *((f"  {s['style']}", s) for s in styles)):
            row = {"method, by style": name, "n": str(entry["distinct"])}
            if identity:  # of the method's pictures in all styles
                found = of_method if entry is method else {}
                row |= {head: _cell(found.get(key)) for head, key in _IDENTITY.items()}
            # Eighty columns hold these; the report has the rest.
            row.update({_SHORT[k]: _cell(c) for k, c in entry["cells"].items() if k in _SHORT})
            rows.append(row)
    show_table(title, list(rows[0]) if rows else [], rows)
    groups = [_group_row(one) for one in record["groups"] or ()]
    if groups:
        show_table("Groups, which are in no mean above", list(groups[0]), groups)
    console.print(f"report:   {paths.html}", markup=False)


def _group_row(found: Mapping[str, Any]) -> dict[str, str]:
    row = {"method": found["method"], "n": str(found["pictures"])}
    return row | {head: _cell(found[key]) for head, key in _GROUPS.items()}


def _cell(cell: Mapping[str, Any] | None) -> str:
    from eval.reports.formatting import rounded

    return "-" if cell is None or cell["mean"] is None else rounded(cell["mean"], 3)


@user_errors()
def report(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    storage_options: options.StorageOptions = None,
) -> None:
    """Write the report of a run again, from its tables."""
    show_report(run, options.storage_options(storage_options))


@user_errors()
def status(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    storage_options: options.StorageOptions = None,
) -> None:
    """Say how far a running or dead run is."""
    from pipelines.run.status import run_status

    found = run_status(run, options.storage_options(storage_options))
    units = "?" if found.units is None else found.units
    requests = "?" if found.requests is None else found.requests
    console.print(
        f"{found.state}: {found.people} people, {found.units_done}/{units} units "
        f"({found.share:.0%}) of {requests} pictures, "
        + (f"{found.accepted} of {found.wanted} accepted, " if found.wanted else "")
        + f"{found.rejects} rejects, last word {found.updated}"
    )


if __name__ == "__main__":
    typer.run(report)
