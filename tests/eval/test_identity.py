"""Margin and rank-1 on features that are written out, and in a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.identity import MEAN, Judge, identity_of_methods
from eval.json_values import json_value
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
    """Two photos each that are alike, whatever was drawn before."""
    rng = np.random.default_rng(1)
    means = rng.normal(size=(4, 1, 16))
    return {f"person_{n}": _unit(means[n] + 0.3 * rng.normal(size=(2, 16))) for n in range(4)}


def measured(data, faces, people, held_out=None, originals=None, **others):
    """By FaceNet alone, or with other judges: name -> (faces, people)."""
    judges = [Judge("FaceNet", "facenet-1", faces, people, held_out or {})]
    judges += [Judge(name, f"{name}-1", *one, {}) for name, one in others.items()]
    return identity_of_methods(data, np.arange(len(data)), judges, originals or {})


def test_margin_and_rank1_are_counted_out(data, people):
    rows = np.arange(len(data))
    faces = _unit(RNG.normal(size=(len(rows), 16)) + 0.0)
    faces[3] = np.nan
    found = measured(data, faces, people)
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
    asked = [int(name[-1]) for name in data.samples["identity_id"]]
    mean = np.stack([_unit(people[f"person_{n}"].mean(axis=0)) for n in range(4)])
    right = measured(data, mean[asked], people)
    wrong = measured(data, mean[(np.array(asked) + 1) % 4], people)
    assert right["methods"]["infinite_id"]["rank1"]["mean"] == 1
    assert wrong["methods"]["infinite_id"]["rank1"]["mean"] == 0
    assert right["methods"]["infinite_id"]["margin"]["low"] > 0
    assert wrong["methods"]["infinite_id"]["margin"]["mean"] < 0


def test_held_out_photos_judge_where_there_are_any(data, people):
    asked = [int(name[-1]) for name in data.samples["identity_id"]]
    other = _unit(RNG.normal(size=(1, 16)))
    held_out = {"person_0": other}
    faces = np.stack([other[0] if n == 0 else people[f"person_{n}"][0] for n in asked])
    found = measured(data, faces, people, held_out)
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
    found = measured(data, faces, people, originals=data.originals())
    assert found["people"] == 2
    asked = {one["person"]: one for one in found["methods"]["infinite_id"]["by_person"]}
    assert set(asked) == {"person_0", "person_2"}
    assert (asked["person_0"]["rank1"], asked["person_2"]["rank1"]) == (1, 0)


def test_every_network_and_their_mean_are_counted_out(data, people):
    """Networks of different widths; a picture without a face is in none of them."""
    other = {name: _unit(RNG.normal(size=(1, 7))) for name in people}
    faces, seen = _unit(RNG.normal(size=(len(data), 16))), _unit(RNG.normal(size=(len(data), 7)))
    faces[3], seen[3] = np.nan, np.nan
    found = measured(data, faces, people, ArcFace=(seen, other))
    assert found["methods"] == measured(data, faces, people)["methods"]
    assert list(found["networks"]) == ["FaceNet", "ArcFace", MEAN]
    assert found["networks"][MEAN]["revision"] == "facenet-1 + ArcFace-1"
    for method in ("infinite_id", "text_only"):
        margins, firsts = [], []
        for row in np.flatnonzero(data.samples["method"] == method):
            if np.isnan(faces[row, 0]):
                continue
            cosine = {}
            for name in people:
                mean = people[name].mean(axis=0)
                by_facenet = np.dot(faces[row], mean) / np.linalg.norm(mean)
                cosine[name] = (by_facenet + np.dot(seen[row], other[name][0])) / 2
            own = cosine.pop(data.samples["identity_id"][row])
            margins.append(own - np.mean(list(cosine.values())))
            firsts.append(own > max(cosine.values()))
        result = {name: one["methods"][method] for name, one in found["networks"].items()}
        assert result[MEAN]["margin"]["mean"] == pytest.approx(np.mean(margins), abs=1e-6)
        assert result[MEAN]["rank1"]["mean"] == pytest.approx(np.mean(firsts))
        each = [result[name]["margin"]["mean"] for name in ("FaceNet", "ArcFace")]
        assert result[MEAN]["margin"]["mean"] == pytest.approx(np.mean(each))
        assert found["methods"][method]["margin"] == result["FaceNet"]["margin"]


def test_one_network_has_no_table_of_networks(data, people):
    assert measured(data, _unit(RNG.normal(size=(len(data), 16))), people)["networks"] == {}


def test_a_run_without_a_face_has_no_margin(data, people):
    found = measured(data, np.full((len(data), 1), np.nan, np.float32), people)
    assert found["methods"]["infinite_id"]["margin"]["n"] == 0


def test_one_person_has_no_margin(data, people):
    only = {"person_0": people["person_0"]}
    faces = np.zeros((len(data), 16), np.float32)
    assert measured(data, faces, only) is None


def test_the_report_shows_them_first_and_says_who_judges(tmp_path, people):
    write_run(tmp_path, people=4, seeds=1, methods=("infinite_id", "text_only"))
    data = read_run(tmp_path)
    faces = np.stack([people[name][0] for name in data.samples["identity_id"]])
    identity = measured(data, faces, people)
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
    assert "By every network" not in page + text
    assert not (tmp_path / "report/identity.tex").exists()


def test_the_report_has_each_network_with_its_warning(tmp_path, people):
    write_run(tmp_path, people=4, seeds=1, methods=("infinite_id", "text_only"))
    data = read_run(tmp_path)
    faces = np.stack([people[name][0] for name in data.samples["identity_id"]])
    judges = [
        Judge("FaceNet", "f-1", faces, people, {}),
        Judge("ArcFace", "a-1", faces[:, ::-1], people, {}, "methods CONDITION on it"),
    ]
    identity = identity_of_methods(data, np.arange(len(data)), judges, {})
    bounds = dict.fromkeys(("ceiling", "floor"), identity["methods"]["text_only"]["margin"])
    bounds |= {"held_out": False, "people": 4}
    sets = {"identity": identity, "bounds": bounds, "methods": {}, "pictures": 1}
    (tmp_path / "sets.json").write_text(json.dumps(json_value(sets)))
    paths = write_report(tmp_path)
    for shown in (Path(paths.html).read_text(), Path(paths.markdown).read_text()):
        start = shown.index("By every network of identity")
        assert "methods CONDITION on it" in shown[start : start + 4000]
    lines = (tmp_path / "report/table.csv").read_text().splitlines()
    named = {tuple(line.split(",")[:2]): line.split(",")[4] for line in lines}
    for network in ("FaceNet", "ArcFace", "mean"):
        mean = identity["networks"][network]["methods"]["text_only"]["margin"]["mean"]
        key = ("text_only", f"identity_margin_{network.lower()}")
        assert float(named[key]) == pytest.approx(mean)
    assert named["text_only", "identity_margin"] == named["text_only", "identity_margin_facenet"]
    latex = (tmp_path / "report/identity.tex").read_text()
    rows = [line for line in latex.splitlines() if line.endswith(r"\\") and " & " in line]
    assert [line.count("&") for line in rows] == [3, 6, 6, 6]
    assert "chance is 25.0 %" in latex
