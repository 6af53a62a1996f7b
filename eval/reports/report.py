"""The report of a run folder: one HTML page without a network, Markdown, JSON and figures.

Everything is read from disk, so a report can be made again, of a finished run or of one that
broke off: what is missing is said at its top.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from eval.comparable import describe
from eval.json_values import json_value
from eval.pose_slopes import AXES, PoseSlopes, pose_slopes
from eval.reports.exports import csv_table, latex_identity, latex_table, networks_of
from eval.reports.formatting import bounds, carries, cell, interval, label, record, value
from eval.reports.groups import group_section
from eval.reports.report_figures import THEMES, make_plots, make_sheets
from eval.reports.tables import FACE_FOUND, Tables, extremes, make_tables
from eval.reports.thumbnails import choose_pictures, data_uri, thumbnail
from eval.run_data import RunData, read_run

__all__ = ["MAX_PICTURES", "ReportPaths", "write_report"]

MAX_PICTURES = 1000
THUMBNAIL_EDGE = 192
MAX_REJECTS = 200
SCHEMA_VERSION = 1
SET_TITLES = (
    "with a face",
    "separation (distance) ↑",
    "consistency (distance) ↓",
    "seed diversity ↑",
    "Sim(GT) ↑",
    "Sim(Ref)",
    "copy-paste ↓",
    "EER ↓",
    "TAR at FAR 1 % ↑",
    "kernel distance ↓",
    "Fréchet distance ↓",
)


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Addresses of what `write_report` wrote."""

    html: str
    markdown: str
    json: str
    figures: tuple[str, ...]


def write_report(
    run_dir: str | Path,
    *,
    reference: str | None = None,
    max_pictures: int = MAX_PICTURES,
    options: Mapping[str, Any] | None = None,
) -> ReportPaths:
    """Writes report.html, report.md, report.json, table.csv, table.tex and figures in report/.

    With more than one network of identity, identity.tex too.

    Each figure is a PNG (300 dpi), an SVG and a PDF, a column or a page of a paper wide.

    Args:
        run_dir: folder or address of a run; a partly failed one will do.
        reference: method that paired differences are taken to; by default `infinite_id`, or the
            run's first.
        max_pictures: most pictures in the page; the rest is counted in every number.
        options: of file systems by scheme.

    Raises:
        ValueError: no run there, tables of another run in it, or no such reference method.
    """
    if max_pictures < 0:
        raise ValueError(f"max_pictures is {max_pictures}, allowed: 0 or more")
    data = read_run(run_dir, options)
    tables = make_tables(data, reference=reference)
    extreme = extremes(data, [name for name in data.metrics if name != FACE_FOUND])
    ids = [name for ends in extreme.values() for side in ends.values() for name in side]
    shown = choose_pictures(data, ids, max_pictures)
    pictures = _pictures(data, shown)
    sets = data.folder.read_json("sets.json") or {}
    scenario = data.folder.read_json("scenario.json") or {}
    figures = make_plots(data, tables, sets, scenario) | make_sheets(data, tables, scenario)
    poses = pose_slopes(data)
    context = _context(data, tables, extreme, pictures, figures) | _pose_rows(poses)
    context |= {"sets": sets, "scenario": scenario, "set_rows": _set_rows(sets)}
    context["identity_judges"] = _judges(sets)
    context["groups"] = groups = group_section(data)
    context["identity_networks"] = networks_of(sets.get("identity"))
    environment = _environment()
    page = environment.get_template("report.html.j2").render(context)
    markdown = environment.get_template("report.md.j2").render(context)
    report = json.dumps(
        _json(data, tables, extreme, shown)
        | {
            "sets": sets,
            "figures": list(figures),
            "poses": [json_value(asdict(one)) for one in poses],
            "groups": json_value(groups and groups["methods"]),
        },
        indent=1,
        ensure_ascii=False,
    )
    folder = data.folder
    written = [
        folder.write(f"report/figures/{name}.{ending}", figure[kind])
        for name, figure in figures.items()
        for ending, kind in (("png", "light"), ("svg", "svg"), ("pdf", "pdf"))
    ]
    shown_metrics = list(data.metrics.values())
    exported = tables.methods, shown_metrics, sets.get("identity")
    folder.write("report/table.csv", csv_table(*exported).encode())
    folder.write("report/table.tex", latex_table(*exported, _caption(context)).encode())
    if networks_of(sets.get("identity")):
        folder.write("report/identity.tex", latex_identity(sets["identity"]).encode())
    return ReportPaths(
        html=folder.write("report/report.html", page.encode()),
        markdown=folder.write("report/report.md", markdown.encode()),
        json=folder.write("report/report.json", report.encode()),
        figures=tuple(written),
    )


def _pictures(data: RunData, shown: Sequence[str]) -> dict[str, Any]:
    """What the page's script draws grids and galleries from."""
    small = {}
    for name, encoded in data.pictures(shown):
        picture = thumbnail(encoded, THUMBNAIL_EDGE)
        if picture is None:
            data.missing.append(f"picture {name} cannot be decoded")
        else:
            small[name] = picture
    row_of = {name: row for row, name in enumerate(data.samples["sample_id"].tolist())}
    prompts: dict[str, int] = {}
    samples = []
    for name, picture in small.items():
        row = row_of[name]
        sample = {column: data.samples[column][row] for column in ("identity_id", "method")}
        sample |= {column: data.samples[column][row] for column in ("prompt_id", "style")}
        samples.append(
            sample
            | picture
            | {
                "sample_id": name,
                "seed": str(data.samples["seed"][row]),
                "prompt": prompts.setdefault(data.samples["prompt"][row], len(prompts)),
                "scores": {metric: _number(values[row]) for metric, values in data.scores.items()},
            }
        )
    order = {name: number for number, name in enumerate(shown)}
    samples.sort(key=lambda sample: order[sample["sample_id"]])
    return {
        "samples": samples,
        "prompts": list(prompts),
        "references": _references(data, {sample["identity_id"] for sample in samples}),
        "metrics": {name: info.as_dict() for name, info in data.metrics.items()},
    }


def _references(data: RunData, identities: set[str]) -> dict[str, list[str]]:
    """identity -> data URIs of aligned crops: one of a person, one a part of a mix."""
    mixes = data.mixes()
    parts = {name: mixes.get(name, [name]) for name in sorted(identities)}
    crops = data.references(sorted({person for people in parts.values() for person in people}))
    small = {name: thumbnail(crop, 112) for name, crop in crops.items()}
    return {
        name: [picture["src"] for person in people if (picture := small.get(person))]
        for name, people in parts.items()
    }


# The first of these stages that was timed gives the images/s of the head line.
_IMAGE_STAGES = ("images and scores", "images")


def _set_rows(sets: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(method, cells) of the table of whole sets; the headings are `SET_TITLES`."""
    rows = []
    for name, values in (sets.get("methods") or {}).items():
        structure = values.get("class_structure") or {}
        check = values.get("verification") or {}
        kernel, frechet = values.get("kernel_distance"), values.get("frechet_distance")
        summaries = [
            *(structure.get(part) for part in ("separation", "consistency")),
            values.get("seed_diversity"),
            *(values.get(part) for part in ("sim_gt", "sim_ref", "copy_paste")),
            check.get("eer"),
            (check.get("tar") or {}).get("0.01"),
        ]
        cells = ["–" if one is None else record(one, "cosine") for one in summaries]
        cells += [value(kernel["mean"] if kernel else None, "cosine"), value(frechet, "cosine")]
        rows.append((name, [f"{values.get('with_face')} of {values.get('pictures')}", *cells]))
    return rows


def _pose_rows(poses: Sequence[PoseSlopes]) -> dict[str, Any]:
    """Headings and cells of the table of poses, which has the columns that any method has."""
    columns = [
        (kind, axis)
        for kind in ("copied", "followed")
        for axis in AXES
        if any(axis in getattr(one, kind) for one in poses)
    ]
    rows = []
    for one in poses:
        slopes = [getattr(one, kind).get(axis) for kind, axis in columns]
        cells = [
            "–" if s is None else " ".join(filter(None, (value(s.mean, ""), interval(s, ""))))
            for s in slopes
        ]
        rows.append((one.method, cells))
    return {"pose_titles": [f"{axis} {kind}" for kind, axis in columns], "pose_rows": rows}


def _context(
    data: RunData,
    tables: Tables,
    extreme: dict[str, dict[str, list[str]]],
    pictures: dict[str, Any],
    figures: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    run = data.run
    timings = run.get("timings") or {}
    made = int(data.samples["has_image"].sum())
    return {
        "run": run,
        "preset": run.get("preset"),
        "profile": (run.get("config") or {}).get("profile"),
        "untrained": bool(run.get("untrained")),
        "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "missing": data.missing,
        "metrics": [info for name, info in data.metrics.items() if name != FACE_FOUND],
        "all_metrics": list(data.metrics.values()),
        "tables": tables,
        "over": tables.over,
        "counts": {
            "people": len(data.people()),
            "requests": len(data),
            "pictures": made,
            "faces": data.face_count,
            "methods": len(tables.methods),
            "styles": len(data.names("style")),
            "rejects": len(data.rejects),
        },
        "rate": next((rate for name in _IMAGE_STAGES if (rate := _rate(timings.get(name)))), None),
        "timings": {stage: (values, _rate(values)) for stage, values in timings.items()},
        "reject_counts": _reject_counts(data),
        "rejects": data.rejects[:MAX_REJECTS],
        "notes": run.get("notes") or [],
        "extremes": extreme,
        "figures": figures,
        "plots": {
            name: figure | {theme: data_uri(figure[theme], "image/png") for theme in THEMES}
            for name, figure in figures.items()
            if all(theme in figure for theme in THEMES)
        },
        "pictures": pictures,
        "shown": len(pictures["samples"]),
        "model_revisions": data.model_revisions,
        "provenance": {
            name: json.dumps(run[name], indent=2, ensure_ascii=False, default=str)
            for name in ("config", "environment", "revisions")
            if run.get(name)
        },
    }


def _json(
    data: RunData, tables: Tables, extreme: dict[str, Any], shown: Sequence[str]
) -> dict[str, Any]:
    return json_value(
        {
            "schema_version": SCHEMA_VERSION,
            "untrained": bool(data.run.get("untrained")),
            "run": data.run,
            "missing": data.missing,
            "reference": tables.reference,
            "comparable": describe(data),
            "metrics": {name: info.as_dict() for name, info in data.metrics.items()},
            "methods": [row.as_dict() for row in tables.methods],
            "styles": [row.as_dict() for row in tables.styles],
            "identities": [row.as_dict() for row in tables.identities],
            "extremes": extreme,
            "rejects": _reject_counts(data),
            "model_revisions": data.model_revisions,
            "pictures_in_page": len(shown),
        }
    )


def _reject_counts(data: RunData) -> list[dict[str, Any]]:
    counts = Counter((str(row.get("stage")), str(row.get("reason"))) for row in data.rejects)
    return [
        {"stage": stage, "reason": reason, "count": count}
        for (stage, reason), count in counts.most_common()
    ]


def _rate(timing: dict[str, Any] | None) -> float | None:
    """Rows a second."""
    if not timing or not timing.get("seconds") or timing.get("rows") is None:
        return None
    return float(timing["rows"]) / float(timing["seconds"])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("eval", "templates"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "value": value,
        "interval": interval,
        "record": record,
        "bounds": bounds,
        "cell": cell,
    }
    environment.globals["label"] = label
    environment.globals["carries"] = carries
    environment.globals["set_titles"] = SET_TITLES
    # The order of the metrics is the reader's order.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment


def _caption(context: Mapping[str, Any]) -> list[str]:
    """What the caption of a table in a paper has to say."""
    counts, over = context["counts"], context["over"]
    made = f"preset {context['preset']}" if context["preset"] else "pictures"
    return [
        f"{counts['pictures']} pictures of {counts['people']} people, {made}",
        f"brackets: 95 % intervals over {over}" if over else "no intervals: too little varies",
        *([context["identity_judges"]] if context["identity_judges"] else []),
        *(["UNTRAINED WEIGHTS: pictures are noise"] if context["untrained"] else []),
    ]


def _judges(sets: dict[str, Any]) -> str:
    """Whether the photos that judge identity are those that conditioned."""
    identity = sets.get("identity")
    if not identity:
        return ""
    people, held_out = identity["people"], identity["held_out"]
    if held_out == people:
        return "Held-out photos judge, which no method has seen."
    if not held_out:
        return "The photos that conditioned also judge: a copy of them scores best."
    return (
        f"Held-out photos judge {held_out} of {people} people, the photos that conditioned the "
        "others: a copy of these scores best."
    )
