"""The figures of a report: plots of its numbers and grids of its pictures."""

from __future__ import annotations

from typing import Any

from PIL import Image

from eval.reports.figures import DARK, LIGHT, contact_sheet, curve, scatter, style_profile
from eval.reports.tables import Tables
from eval.reports.thumbnails import open_picture
from eval.run_data import RunData

__all__ = ["THEMES", "make_plots", "make_sheets"]

SHEET_ROWS, SHEET_COLUMNS = 8, 8
X_METRIC, Y_METRIC = "text_score", "identity_facenet"
THEMES = {"light": LIGHT, "dark": DARK}


def make_plots(
    data: RunData, tables: Tables, sets: dict[str, Any], scenario: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """name -> title, note and a PNG a theme, as far as there are numbers to draw.

    Args:
        data, tables: of the run.
        sets: content of sets.json, may be empty.
        scenario: content of scenario.json, may be empty.
    """
    found: dict[str, dict[str, Any]] = {}
    if any(point["n"] for point in sets.get("curves") or ()):
        titles = (scenario.get("x_title") or "x", "Identity (FaceNet)")
        found["curve"] = {
            "title": scenario.get("title") or "Similarity along x",
            "note": "Cosine of the pictures' faces; bands are 95 % intervals over people.",
            **{name: curve(sets["curves"], *titles, theme) for name, theme in THEMES.items()},
        }
    levels = [
        (f"{word} ({what})", bound["mean"])
        for word, what in (("ceiling", "own photos"), ("floor", "other people"))
        if (bound := (sets.get("bounds") or {}).get(word)) and bound["mean"] is not None
    ]
    x, y = data.metrics.get(X_METRIC), data.metrics.get(Y_METRIC)
    if x and y and any(row.cells[x.name].n and row.cells[y.name].n for row in tables.methods):
        found["scatter"] = {
            "title": "Identity fidelity against semantic consistency",
            "note": "One mark a method; bars are 95 % intervals over people.",
            **{
                name: scatter(tables.methods, x, y, theme, levels=levels)
                for name, theme in THEMES.items()
            },
        }
    metrics = [info for info in (y, x) if info]
    if metrics and len(data.names("style")) > 1:
        found["styles"] = {
            "title": "By style",
            "note": "One mark a style and method; bars are 95 % intervals over people.",
            **{n: style_profile(tables.styles, metrics, t) for n, t in THEMES.items()},
        }
    return found


def make_sheets(
    data: RunData, tables: Tables, scenario: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The picture grids: what the scenario lays across, else methods or styles."""
    if not data.samples["has_image"].any():
        return {}
    across = scenario.get("across") or ("method" if len(tables.methods) > 1 else "style")
    if across == "identity_id":
        return _derived_people(data, scenario)
    people = data.names("identity_id")[:SHEET_ROWS]
    columns = data.names(across)[:SHEET_COLUMNS]
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
            "note": f"Rows are people with their aligned reference, columns {across}s; {what}.",
            "light": contact_sheet(columns, rows),
        }
    }


def _derived_people(data: RunData, scenario: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Mixes or variants across; a row a method and the people that they are derived from."""
    mixes, variants = data.mixes(), scenario.get("variants") or {}
    sources = {name: tuple(parts) for name, parts in mixes.items()}
    sources |= {name: (variant["of"],) for name, variant in variants.items()}
    shown = [name for name in data.names("identity_id") if name in sources]
    labels = {name: _derived_label(name, variants) for name in shown}
    columns = list(dict.fromkeys(labels[name] for name in shown))[: 2 * SHEET_COLUMNS]
    fixed = {name: data.names(name)[0] for name in ("prompt_id", "style", "seed")}
    cells: dict[str, tuple[tuple[str, tuple[str, ...]], str]] = {}
    for row in data.samples["has_image"].nonzero()[0].tolist():
        name = data.samples["identity_id"][row]
        alike = all(data.samples[column][row] == value for column, value in fixed.items())
        if alike and name in sources and labels[name] in columns:
            group = (data.samples["method"][row], sources[name])
            cells[data.samples["sample_id"][row]] = (group, labels[name])
    groups = list(dict.fromkeys(group for group, _ in cells.values()))[:SHEET_ROWS]
    if not groups:
        return {}
    found = {cells[name]: open_picture(encoded) for name, encoded in data.pictures(list(cells))}
    people = sorted({person for _, parts in groups for person in parts})
    crops = {name: open_picture(crop) for name, crop in data.references(people).items()}
    paired = all(len(parts) > 1 for _, parts in groups)
    rows = [
        (
            method,
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
            "note": f"A row a method and source; {what}{ends}.",
            "light": contact_sheet([*columns, *(["second"] if paired else [])], rows),
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
