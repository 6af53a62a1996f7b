"""The figures of a report: plots of its numbers and grids of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from eval.pictures import open_picture
from eval.pose_slopes import along_yaw
from eval.reports.figures import (
    LEAST_PEOPLE,
    Level,
    axis_title,
    curve,
    scatter,
    style_profile,
)
from eval.reports.print_style import DARK, LIGHT, Theme, render
from eval.reports.sheets import contact_sheet
from eval.reports.tables import Row, Tables, over_of
from eval.run_data import RunData

__all__ = ["THEMES", "make_plots", "make_sheets"]

SHEET_ROWS, SHEET_COLUMNS = 8, 12
X_METRIC, Y_METRIC = "text_score", "identity_facenet"
THEMES = {"light": LIGHT, "dark": DARK}


def make_plots(
    data: RunData, tables: Tables, sets: dict[str, Any], scenario: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """name -> title, note, a PNG a theme, "svg" and "pdf", as far as there are numbers to draw.

    Args:
        data, tables: of the run.
        sets: content of sets.json, may be empty.
        scenario: content of scenario.json, may be empty.
    """
    found: dict[str, dict[str, Any]] = {}
    bounds = sets.get("bounds") or {}
    levels = [
        _level(f"{word}: {what}", bound)
        for word, what in (("ceiling", "own photos"), ("floor", "other people"))
        if (bound := bounds.get(word)) and bound["mean"] is not None
    ]
    points = sets.get("curves") or ()
    if any(point["n"] for point in points):
        x_title = scenario.get("x_title") or "x"
        network = (sets.get("network") or "").partition(",")[0]  # its revision is in the tables
        y_title = axis_title("Identity ↑", network, "cosine", (-1.0, 1.0))
        # Factors of a photo's size are steps of two; weights of a mix are not.
        log2 = bool(scenario.get("variants"))
        few = min(point["identities"] for point in points if point["n"])
        bands = (
            "bands are 95 % intervals over people"
            if few >= LEAST_PEOPLE
            else f"{few} people carry no interval: a thin line is a person"
        )
        found["curve"] = {
            "title": scenario.get("title") or "Similarity along x",
            "note": f"Cosine of the pictures' faces; {bands}.",
        } | _drawn(lambda theme: curve(points, x_title, y_title, theme, levels=levels, log2=log2))
    found |= _along_yaw(data)
    x, y = data.metrics.get(X_METRIC), data.metrics.get(Y_METRIC)
    if x and y and any(row.cells[x.name].n and row.cells[y.name].n for row in tables.methods):
        found["scatter"] = {
            "title": "Identity fidelity against semantic consistency",
            "note": f"One mark a method{_bars(tables.methods)}.",
        } | _drawn(lambda theme: scatter(tables.methods, x, y, theme, levels=levels))
    metrics = [info for info in (y, x) if info]
    if metrics and len(data.names("style")) > 1:
        found["styles"] = {
            "title": "By style",
            "note": f"One mark a style and method{_bars(tables.styles)}.",
        } | _drawn(lambda theme: style_profile(tables.styles, metrics, theme))
    return found


def _along_yaw(data: RunData) -> dict[str, dict[str, Any]]:
    """Likeness and yaw of the pictures along the yaw of the keypoints that they were held to."""
    found = {}
    for name, title in ((Y_METRIC, "Likeness"), ("yaw", "The head's yaw")):
        points = along_yaw(data, name)
        if any(point["mean"] is not None for point in points):
            info = data.metrics[name]
            network = info.network.partition(",")[0]
            y_title = axis_title(info.title, network, info.unit, info.bounds)
            found[f"yaw_{name}"] = {
                "title": f"{title} along the yaw asked for",
                "note": "Of pictures that were held to keypoints of a level head; bands are 95 % "
                "intervals over people, where there are as many pictures.",
            } | _drawn(partial(curve, points, "yaw asked for, degrees", y_title))
    return found


def _bars(rows: Sequence[Row]) -> str:
    over = over_of(rows)
    return f"; bars are 95 % intervals over {over}" if over else ""


def _level(name: str, bound: dict[str, Any]) -> Level:
    """A bound with its band, where enough people carry one."""
    carried = bound["identities"] >= LEAST_PEOPLE and bound["low"] is not None
    return Level(name, bound["mean"], *((bound["low"], bound["high"]) if carried else ()))


def _drawn(draw: Callable[[Theme], Figure]) -> dict[str, bytes]:
    """A PNG a theme for the page, SVG and PDF for papers."""
    light = draw(LIGHT)
    return {
        "light": render(light),
        "dark": render(draw(DARK)),
        **{kind: render(light, kind) for kind in ("svg", "pdf")},
    }


def _sheet(columns: Sequence[str], rows: Sequence[Any]) -> dict[str, bytes]:
    """A grid of pictures: it stands on white in every page."""
    figure = contact_sheet(columns, rows)
    return {"light": render(figure), **{kind: render(figure, kind) for kind in ("svg", "pdf")}}


def make_sheets(
    data: RunData, tables: Tables, scenario: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The picture grids: what the scenario lays across, else methods or styles."""
    if not data.samples["has_image"].any():
        return {}
    across = scenario.get("across") or ("method" if len(tables.methods) > 1 else "style")
    if across == "identity_id":
        return _derived_people(data, tables, scenario)
    every, wide = data.names("identity_id"), data.names(across)
    people, columns = every[:SHEET_ROWS], wide[:SHEET_COLUMNS]
    fixed = {name: data.names(name)[0] for name in ("prompt_id", "style", "seed") if name != across}
    cells: dict[str, tuple[str, str]] = {}
    for row in data.samples["has_image"].nonzero()[0].tolist():
        if all(data.samples[name][row] == value for name, value in fixed.items()):
            where = (data.samples["identity_id"][row], data.samples[across][row])
            if where[0] in people and where[1] in columns:
                cells.setdefault(data.samples["sample_id"][row], where)
    found: dict[tuple[str, str], Image.Image | None] = {
        cells[name]: open_picture(encoded) for name, encoded in data.pictures(list(cells))
    }
    crops = {name: open_picture(crop) for name, crop in data.references(people).items()}
    rows = [
        (person, crops.get(person), [found.get((person, column)) for column in columns])
        for person in people
    ]
    what = ", ".join(f"{name} {value}" for name, value in fixed.items())
    return {
        "grid": {
            "title": "Pictures",
            "note": f"Rows are people ({_part(people, every)}) with their aligned reference, "
            f"columns {across}s ({_part(columns, wide)}); {what}.",
            **_sheet(columns, rows),
        }
    }


def _part(shown: Sequence[Any], every: Sequence[Any]) -> str:
    return f"all {len(every)}" if len(shown) == len(every) else f"{len(shown)} of {len(every)}"


def _derived_people(
    data: RunData, tables: Tables, scenario: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Mixes or variants across; a row a method and the people that they are derived from."""
    mixes, variants = data.mixes(), scenario.get("variants") or {}
    sources = {name: tuple(parts) for name, parts in mixes.items()}
    sources |= {name: (variant["of"],) for name, variant in variants.items()}
    shown = [name for name in data.names("identity_id") if name in sources]
    labels = {name: _derived_label(name, variants) for name in shown}
    columns = list(dict.fromkeys(labels[name] for name in shown))[:SHEET_COLUMNS]
    fixed = {name: data.names(name)[0] for name in ("prompt_id", "style", "seed")}
    cells: dict[str, tuple[tuple[str, tuple[str, ...]], str]] = {}
    for row in data.samples["has_image"].nonzero()[0].tolist():
        name = data.samples["identity_id"][row]
        alike = all(data.samples[column][row] == value for column, value in fixed.items())
        if alike and name in sources and labels[name] in columns:
            group = (data.samples["method"][row], sources[name])
            cells[data.samples["sample_id"][row]] = (group, labels[name])
    every = list(dict.fromkeys(group for group, _ in cells.values()))
    groups = every[:SHEET_ROWS]
    if not groups:
        return {}
    found = {cells[name]: open_picture(encoded) for name, encoded in data.pictures(list(cells))}
    people = sorted({person for _, parts in groups for person in parts})
    crops = {name: open_picture(crop) for name, crop in data.references(people).items()}
    paired = all(len(parts) > 1 for _, parts in groups)
    rows = [
        (
            method if len(tables.methods) > 1 else "\nto ".join(parts),
            crops.get(parts[0]),
            [found.get(((method, parts), column)) for column in columns]
            + ([crops.get(parts[1])] if paired else []),
        )
        for method, parts in groups
    ]
    what = ", ".join(f"{name} {value}" for name, value in fixed.items())
    ends = "; the first and the last column are the two people" if paired else ""
    return {
        "grid": {
            "title": "Pictures",
            "note": f"A row a method and source ({_part(groups, every)}); {what}{ends}.",
            **_sheet([*columns, *(["second"] if paired else [])], rows),
        }
    }


def _derived_label(name: str, variants: dict[str, Any]) -> str:
    """Heading of a derived person: a factor, the step of a walk, stacked or averaged."""
    if name in variants:
        return f"x{variants[name]['x']}"
    for mark, word in (("@", ""), ("+", "stacked"), ("~", "averaged")):
        if mark in name:
            return word or name.rsplit(mark, 1)[1]
    return name
