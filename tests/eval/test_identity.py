"""Margin and rank-1 on features that are written out, and in a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.identity import identity_of_methods
from eval.reports.report import write_report
from eval.reports.tables import make_tables
from eval.run_data import read_run
from tests.eval.runs import write_run

RNG = np.random.default_rng(0)


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def data(tmp_path):
    write_run(tmp_path, people=4, seeds=1, methods=("infinite_id", "text_only"))
    return read_run(tmp_path)


@pytest.fixture
def people():
    return {f"person_{n}": _unit(RNG.normal(size=(2, 16))) for n in range(4)}


def test_margin_and_rank1_are_counted_out(data, people):
    rows = np.arange(len(data))
    faces = _unit(RNG.normal(size=(len(rows), 16)) + 0.0)
    faces[3] = np.nan
    found = identity_of_methods(data, rows, faces, people, {}, {})
    assert (found["people"], found["chance"], found["held_out"]) == (4, 0.25, 0)
    for method in ("infinite_id", "text_only"):
        margins, firsts = [], []
        for row in rows:
            if data.samples["method"][row] != method or np.isnan(faces[row, 0]):
                continue
            known = {
                name: np.dot(faces[row], f.mean(axis=0)) / np.linalg.norm(f.mean(axis=0))
                for name, f in people.items()
            }
            own = known.pop(data.samples["identity_id"][row])
            margins.append(own - np.mean(list(known.values())))
            firsts.append(own > max(known.values()))
        result = found["methods"][method]
        assert result["margin"]["mean"] == pytest.approx(np.mean(margins), abs=1e-6)
        assert result["rank1"]["mean"] == pytest.approx(np.mean(firsts))
        assert result["margin"]["n"] == len(margins)
        assert sum(one["n"] for one in result["by_person"]) == len(margins)
    assert sum(one["without_face"] for one in found["methods"]["infinite_id"]["by_person"]) == 1


def test_a_copy_of_the_right_person_is_recognised_and_of_a_wrong_one_is_not(data, people):
    rows = np.arange(len(data))
    asked = [int(name[-1]) for name in data.samples["identity_id"]]
    mean = np.stack([_unit(people[f"person_{n}"].mean(axis=0)) for n in range(4)])
    right = identity_of_methods(data, rows, mean[asked], people, {}, {})
    wrong = identity_of_methods(data, rows, mean[(np.array(asked) + 1) % 4], people, {}, {})
    assert right["methods"]["infinite_id"]["rank1"]["mean"] == 1
    assert wrong["methods"]["infinite_id"]["rank1"]["mean"] == 0
    assert right["methods"]["infinite_id"]["margin"]["low"] > 0
    assert wrong["methods"]["infinite_id"]["margin"]["mean"] < 0


def test_held_out_photos_judge_where_there_are_any(data, people):
    rows = np.arange(len(data))
    asked = [int(name[-1]) for name in data.samples["identity_id"]]
    other = _unit(RNG.normal(size=(1, 16)))
    held_out = {"person_0": other}
    faces = np.stack([other[0] if n == 0 else people[f"person_{n}"][0] for n in asked])
    found = identity_of_methods(data, rows, faces, people, held_out, {})
    assert found["held_out"] == 1
    own = next(p for p in found["methods"]["infinite_id"]["by_person"] if p["person"] == "person_0")
    assert own["rank1"] == 1


def test_coarser_photos_are_the_same_person(tmp_path, people):
    """Four variants of one photo were four people, and the coarse photo was their judge."""
    write_run(tmp_path, people=4, seeds=2, methods=("infinite_id",))
    variants = {
        "person_0": {"of": "person_0", "x": 1},
        "person_1": {"of": "person_0", "x": 2},
        "person_2": {"of": "person_2", "x": 1},
        "person_3": {"of": "person_2", "x": 2},
    }
    (tmp_path / "scenario.json").write_text(json.dumps({"variants": variants}))
    data = read_run(tmp_path)
    (row,) = make_tables(data).methods
    assert row.cells["text_score"].identities == 2
    faces = np.stack([people["person_0"][0]] * len(data))
    found = identity_of_methods(data, np.arange(len(data)), faces, people, {}, data.originals())
    assert found["people"] == 2
    asked = {one["person"]: one for one in found["methods"]["infinite_id"]["by_person"]}
    assert set(asked) == {"person_0", "person_2"}
    assert (asked["person_0"]["rank1"], asked["person_2"]["rank1"]) == (1, 0)


def test_one_person_has_no_margin(data, people):
    only = {"person_0": people["person_0"]}
    faces = np.zeros((len(data), 16), np.float32)
    assert identity_of_methods(data, np.arange(len(data)), faces, only, {}, {}) is None


def test_the_report_shows_them_first_and_says_who_judges(tmp_path, people):
    write_run(tmp_path, people=4, seeds=1, methods=("infinite_id", "text_only"))
    data = read_run(tmp_path)
    faces = np.stack([people[name][0] for name in data.samples["identity_id"]])
    identity = identity_of_methods(data, np.arange(len(data)), faces, people, {}, {})
    bounds = {"held_out": False, "people": 4}
    bounds |= dict.fromkeys(("ceiling", "floor"), identity["methods"]["text_only"]["margin"])
    sets = {"identity": identity, "bounds": bounds, "methods": {}, "pictures": 1}
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    paths = write_report(tmp_path)
    page, text = Path(paths.html).read_text(), Path(paths.markdown).read_text()
    for shown in (page, text):
        assert "chance is 25.0 %" in shown
        assert "The photos that conditioned also judge: a copy of them scores best." in shown
    assert page.index("Is it the right person?") < page.index("<caption>Methods, all styles")
    assert "100.0 % [" in text
