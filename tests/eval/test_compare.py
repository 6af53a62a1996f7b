"""Differences between runs: pairs of pictures, what changed most, the gate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.comparable import describe, mismatches
from eval.compare import Comparison, compare_reports, compare_runs, failures
from eval.reports.report import write_report
from eval.run_data import read_run
from eval.stats import paired_difference
from tests.eval.runs import write_run


def shift(folder: Path, metric: str, change) -> None:
    """Rewrites a column of the scores: change(values) -> values."""
    path = folder / "scores" / "part-0.parquet"
    table = pq.read_table(path)
    values = np.array(table[metric].to_pylist(), dtype=float)
    index = table.schema.get_field_index(metric)
    column = pa.array(change(values), pa.float32())
    pq.write_table(table.set_column(index, table.schema.field(index), column), path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The second run has 0.05 less identity everywhere and one picture that gained 0.3."""
    place = tmp_path_factory.mktemp("compare")
    for name in ("first", "second"):
        write_run(place / name)

    def change(values):
        changed = values - 0.05
        changed[4] += 0.35
        return changed

    shift(place / "second", "identity_facenet", change)
    return place / "first", place / "second"


@pytest.fixture(scope="module")
def result(folders):
    return compare_runs(*map(read_run, folders))


def row(rows, method, metric):
    return next(one for one in rows if (one.method, one.metric) == (method, metric))


def test_means_are_of_pairs(result):
    changed = row(result[0], "infinite_id", "identity_facenet")
    # 24 pictures fell by 0.05, one of them rose by 0.35 on top.
    assert changed.mean == pytest.approx(-0.05 + 0.35 / 24, abs=1e-5)
    assert changed.n == 24
    assert changed.low <= changed.mean <= changed.high
    assert row(result[0], "text_only", "identity_facenet").unpaired == 4


def test_the_most_changed_pictures_are_named(result):
    better, worse = result[1]["identity_facenet"]
    assert [round(one.after - one.before, 2) for one in better] == [0.3]
    assert len(worse) == 5
    assert {round(one.after - one.before, 2) for one in worse} == {-0.05}
    # The fifth request: infinite_id, first prompt, first style, second seed, second person.
    assert (better[0].identity_id, better[0].seed, better[0].sample_ids[0]) == (
        "person_1", 1, f"{4:032x}"
    )  # fmt: skip


@pytest.mark.parametrize(("margin", "fallen"), [(0.02, ["ip_adapter", "text_only"]), (0.06, [])])
def test_the_gate_names_what_fell_by_more_than_its_margin(result, margin, fallen):
    # infinite_id's loss is as large, but one picture of its three people gained: not certain.
    found = failures(result[0], {"identity_facenet": margin})
    assert [line.split(":")[0] for line in found.fallen] == fallen
    assert [test.margin for test in found.tests] == [margin] * 3


def test_a_metric_that_vanished_has_fallen(folders, tmp_path):
    write_run(tmp_path / "third")
    shift(tmp_path / "third", "identity_facenet", lambda values: values * np.nan)
    rows, _ = compare_runs(read_run(folders[0]), read_run(tmp_path / "third"))
    assert "has no value" in failures(rows, {"identity_facenet": 1.0}).fallen[0]


@pytest.mark.parametrize(
    ("margins", "words"),
    [
        ({"nothing": 0.1}, "metric is 'nothing', allowed: face_found"),
        ({"face_count": 0.1}, "'face_count' has no direction"),
        ({"text_score": -1.0}, "margin of text_score is -1.0, allowed: 0 or more"),
        ({"text_score": float("nan")}, "margin of text_score is nan, allowed: 0 or more"),
    ],
)
def test_wrong_margins_are_refused(result, margins, words):
    with pytest.raises(ValueError, match=words):
        failures(result[0], margins)


def test_runs_of_one_method_each_compare_whatever_they_are_called(tmp_path):
    write_run(tmp_path / "a", methods=("infinite_id",))
    write_run(tmp_path / "b", methods=("ip_adapter",))
    rows, _ = compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    found = row(rows, "infinite_id -> ip_adapter", "identity_facenet")
    assert found.mean == pytest.approx(-0.2, abs=1e-5)


def test_runs_without_a_common_method_are_refused(tmp_path):
    write_run(tmp_path / "a", methods=("infinite_id",))
    write_run(tmp_path / "b", methods=("ip_adapter", "text_only"))
    with pytest.raises(ValueError, match="infinite_id and ip_adapter, text_only, allowed"):
        compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b"))


def test_reports_compare_by_their_means(folders):
    reports = [json.loads(Path(write_report(folder).json).read_text()) for folder in folders]
    rows = compare_reports(*reports, metrics=["identity_facenet"])
    assert {one.metric for one in rows} == {"identity_facenet"}
    found = row(rows, "ip_adapter", "identity_facenet")
    assert found.mean == pytest.approx(-0.05, abs=1e-5)
    assert found.paired is False


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 0, "identity_facenet worse"),
        (["--fail", "identity_facenet=0.02"], 1, "FELL  ip_adapter"),
        (["--fail", "identity_facenet=0.06"], 0, "would be seen four times in five"),
        (["--fail", "identity_facenet=x"], 2, "allowed: METRIC=NUMBER"),
        (["--fail", "nothing=0.1"], 2, "metric is 'nothing', allowed: face_count"),
    ],
)
def test_the_command_is_a_gate(infinite_id, folders, options, code, words):
    done = infinite_id("compare", *folders, *options)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    # ip_adapter loses the same everywhere: what loss would be seen is not known.
    assert "nan" not in done.stdout
    assert ("no two pairs differ in their change" in done.stdout) is (
        "--fail" in options and code < 2
    )


def _requests(folder: Path, change) -> None:
    """Rewrites each row of requests, images and scores."""
    for name in ("requests", "images", "scores"):
        path = folder / name / "part-0.parquet"
        table = pq.read_table(path)
        rows = [change(dict(row)) for row in table.to_pylist()]
        kept = [row for row in rows if row is not None]
        pq.write_table(pa.Table.from_pylist(kept, schema=table.schema), path)


def _other_text(row):
    if row["prompt_id"] == "snow" and "prompt" in row:
        row["prompt"] = row["prompt"].replace("snow", "rain")
    return row


def _without(**names):
    return lambda row: None if all(row[k] == v for k, v in names.items()) else row


def _renamed(column, old, new):
    return lambda row: row | ({column: new} if row[column] == old else {})


def _judge(folder: Path) -> None:
    path = folder / "run.json"
    run = json.loads(path.read_text())
    run["metrics"]["identity_facenet"]["revision"] = "another"
    path.write_text(json.dumps(run))


def _drop_metric(folder: Path) -> None:
    path = folder / "scores" / "part-0.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["identity_facenet"]), path)


def _lose(share: float):
    def change(values):
        changed = values.copy()
        changed[: int(share * len(values))] = np.nan
        return changed

    return lambda folder: shift(folder, "identity_facenet", change)


def _photos(folder: Path) -> None:
    path = folder / "embeddings" / "part-0.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["aligned"] = [rows[1]["aligned"][0]]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: _requests(f, _without(method="ip_adapter")), "method 'ip_adapter' is missing"),
        (_drop_metric, "metric 'identity_facenet' is missing in the run"),
        (_judge, "the judge of identity_facenet was"),
        (_lose(0.2), "of the requests have a value of identity_facenet, 100.0% had"),
        (lambda f: _requests(f, _without(identity_id="person_2")), "person 'person_2' is missing"),
        (lambda f: _requests(f, _renamed("seed", 1, 5)), "seed '5' is new"),
        (lambda f: _requests(f, _other_text), "prompt 'snow, raw_photo', 'snow, anime' has anoth"),
        (_photos, "person 'person_0' has other photos"),
        (
            lambda f: _requests(f, _without(method="infinite_id", prompt_id="snow")),
            "infinite_id: 24 requests became 12",
        ),
    ],
    ids=["method", "metric", "judge", "lost", "people", "seeds", "texts", "photos", "requests"],
)
def test_the_gate_fails_where_runs_are_not_alike(tmp_path, damage, words):
    """All of these passed: what was left compared well."""
    for name in ("a", "b"):
        write_run(tmp_path / name)
    assert mismatches(*_described(tmp_path), ["identity_facenet"], 0.05) == []
    damage(tmp_path / "b")
    found = mismatches(*_described(tmp_path), ["identity_facenet"], 0.05)
    assert any(words in line for line in found), found


def _described(folder: Path):
    return [describe(read_run(folder / name)) for name in ("a", "b")]


SNOW = {"image": "in/scene.png", "mask_image": None, "strength": 0.8}
POINTS = {"control_keypoints": [0.4, 0.4, 0.6, 0.4, 0.5, 0.5, 0.45, 0.6, 0.55, 0.6]}


def _begins(folder: Path, digest: str | None = None, **given) -> None:
    """Prompts "snow" begin with something; with a digest the run knows a picture's content."""

    def change(row):
        begins = row["prompt_id"] == "snow" and "guidance_scale" in row
        return row | (given if begins else {})

    _requests(folder, change)
    if digest is not None:
        prompts = pa.Table.from_pylist([{"prompt_id": "beach"}, {"prompt_id": "snow"}])
        pictures = pa.Table.from_pylist([{"row": 1, "column": "image", "digest": digest}])
        (folder / "manifests").mkdir()
        pq.write_table(prompts, folder / "manifests" / "prompts.parquet")
        pq.write_table(pictures, folder / "manifests" / "pictures.parquet")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (SNOW | {"digest": "d1"}, SNOW | {"digest": "d1", "image": "moved.png"}, None),
        (SNOW | {"digest": "d1"}, SNOW | {"digest": "d2"}, "begins with another picture or str"),
        (SNOW | {"digest": "d1"}, SNOW | {"digest": "d1", "strength": 1.0}, "another picture or s"),
        (SNOW, SNOW, None),
        (SNOW, SNOW | {"image": "moved.png"}, "as far as its address tells"),
        (POINTS, POINTS, None),
        (POINTS, {}, "or is held to another control"),
        (POINTS, POINTS | {"controlnet_conditioning_scale": 0.5}, "or is held to another control"),
    ],
)
def test_prompts_that_begin_with_something_else_are_not_compared(tmp_path, first, second, words):
    """They were paired by id and text."""
    for name, given in (("a", first), ("b", second)):
        write_run(tmp_path / name, methods=("infinite_id",))
        _begins(tmp_path / name, **given)
    found = mismatches(*_described(tmp_path), ["identity_facenet"], 0.05)
    rows, _ = compare_runs(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    pairs = row(rows, "infinite_id", "identity_facenet")
    if words is None:
        assert found == []
        assert pairs.n == 24
    else:
        (line,) = found
        assert "infinite_id: prompt 'snow, raw_photo', 'snow, anime' " in line
        assert words in line
        assert (pairs.n, pairs.unpaired) == (12, 12)


def test_a_gate_without_anything_to_compare_fails(infinite_id, tmp_path):
    write_run(tmp_path / "a", methods=("infinite_id",))
    write_run(tmp_path / "b", methods=("ip_adapter", "text_only"))
    done = infinite_id(
        "compare", tmp_path / "a", tmp_path / "b", "--fail", "text_score=0.1",
        "--json", tmp_path / "c.json",
    )  # fmt: skip
    assert done.returncode == 1
    assert "FELL  nothing to compare" in done.stdout
    (entry,) = json.loads((tmp_path / "c.json").read_text())
    assert entry["failures"][0].startswith("nothing to compare")


def test_one_person_cannot_be_tested(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, people=1, methods=("infinite_id",))
    rows, _ = compare_runs(*(read_run(tmp_path / name) for name in ("a", "b")))
    (line,) = failures(rows, {"text_score": 0.1}).fallen
    assert "cannot be tested: 8 pictures of 1 people" in line


def test_the_json_holds_tests_and_verdict(infinite_id, folders, tmp_path):
    options = ["--fail", "identity_facenet=0.02", "--json", tmp_path / "c.json"]
    done = infinite_id("compare", *folders, *options)
    assert done.returncode == 1
    (entry,) = json.loads((tmp_path / "c.json").read_text())
    assert set(entry) == {"run", "against", "rows", "tests", "failures"}
    assert [test["fell"] for test in entry["tests"]] == [False, True, True]
    assert len(entry["failures"]) == 2


def _alarms(loss: float, margin: float, runs: int = 1500) -> float:
    rng = np.random.default_rng(7)
    names = [str(person) for person in range(7) for _ in range(4)]
    fallen = 0
    for _ in range(runs):
        change = 0.02 * rng.normal(size=(7, 1)) + 0.05 * rng.normal(size=(7, 4)) - loss
        found = paired_difference(change.ravel(), np.zeros(28), names)
        one = Comparison.of("m", "identity_facenet", True, 0.5, 0.5, found)
        fallen += bool(failures([one], {"identity_facenet": margin}).fallen)
    return fallen / runs


@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_false_alarms_are_one_in_twenty(margin):
    """28 pictures of 7 people whose true loss is the margin: it was one in two."""
    assert _alarms(margin, margin) < 0.065


def test_a_true_loss_is_seen():
    assert _alarms(0.08, 0.02) > 0.9


def test_with_several_tests_false_alarms_stay_one_in_twenty():
    rng = np.random.default_rng(5)
    names = [str(person) for person in range(7) for _ in range(4)]
    fallen = 0
    for _ in range(600):
        rows = [
            Comparison.of(
                f"m{k}",
                "text_score",
                True,
                0.5,
                0.5,
                paired_difference(rng.normal(size=28), np.zeros(28), names),
            )
            for k in range(6)
        ]
        fallen += bool(failures(rows, {"text_score": 0.0}).fallen)
    assert fallen / 600 < 0.075


def test_lower_is_better_falls_upwards():
    names = [str(person) for person in range(8) for _ in range(3)]
    rng = np.random.default_rng(1)
    found = paired_difference(0.1 + 0.01 * rng.normal(size=24), np.zeros(24), names)
    one = Comparison.of("m", "copy", False, 0.1, 0.2, found)
    assert failures([one], {"copy": 0.02}).fallen
    assert failures([one], {"copy": 0.2}).fallen == []
