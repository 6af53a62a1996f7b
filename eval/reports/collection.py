"""One page over the reports of several runs: their tables and figures, and links to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from eval.places import place_of
from eval.reports.thumbnails import data_uri
from eval.run_folder import RunFiles

__all__ = ["write_collection"]


def write_collection(
    output: str | Path,
    names: Sequence[str],
    failed: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Writes `report.html` into a folder of run folders; returns its address.

    Args:
        output: folder or address; each run lies in `output/NAME` with its own report.
        names: of the runs, in the order of the page.
        failed: name -> why there is no report.
        options: of file systems by scheme.
    """
    address = str(output).rstrip("/")
    failed = dict(failed or {})
    sections = []
    for name in names:
        if name in failed:
            continue
        try:
            sections.append(_section(f"{address}/{name}", name, options))
        except ValueError as error:
            failed[name] = str(error)
    environment = Environment(
        loader=PackageLoader("eval", "templates"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "interval": _interval}
    page = environment.get_template("collection.html.j2").render(sections=sections, failed=failed)
    place = place_of(address, options)
    with place.fs.open(f"{place.path}/report.html", "wb") as stream:
        stream.write(page.encode())
    return f"{place.url}/report.html"


def _section(address: str, name: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    folder = RunFiles(address, options)
    report = folder.read_json("report/report.json")
    if report is None:
        raise ValueError(f"run {address} has no report")
    scenario = folder.read_json("scenario.json") or {}
    figures = [
        (title, data_uri(folder.read_bytes(path), "image/png"))
        for title in report.get("figures") or ()
        if folder.exists(path := f"report/figures/{title}.png")
    ]
    return {
        "name": name,
        "title": scenario.get("title") or name,
        "note": scenario.get("note") or "",
        "untrained": report["untrained"],
        "missing": report["missing"],
        "metrics": report["metrics"],
        "methods": report["methods"],
        "figures": figures,
    }


def _number(cell: Mapping[str, Any] | None) -> str:
    if not cell or cell["mean"] is None:
        return "–"
    return f"{cell['mean']:.3f}".replace("-", "−")


def _interval(cell: Mapping[str, Any] | None) -> str:
    if not cell or cell["mean"] is None or cell["low"] is None:
        return ""
    return f"[{cell['low']:.3f}, {cell['high']:.3f}]".replace("-", "−")
