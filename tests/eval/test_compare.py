"""Differences between runs: pairs of pictures, what changed most, the gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.compare import compare_reports, compare_runs, failures
from eval.reports.report import write_report
from eval.run_data import read_run
from tests.eval.runs import write_run

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize(
    ("margin", "fallen"), [(0.02, ["infinite_id", "ip_adapter", "text_only"]), (0.06, [])]
)
def test_the_gate_names_what_fell_by_more_than_its_margin(result, margin, fallen):
    found = failures(result[0], {"identity_facenet": margin})
    assert [line.split(":")[0] for line in found] == fallen


def test_a_metric_that_vanished_has_fallen(folders, tmp_path):
    write_run(tmp_path / "third")
    shift(tmp_path / "third", "identity_facenet", lambda values: values * np.nan)
    rows, _ = compare_runs(read_run(folders[0]), read_run(tmp_path / "third"))
    assert "has no value" in failures(rows, {"identity_facenet": 1.0})[0]


@pytest.mark.parametrize(
    ("margins", "words"),
    [
        ({"nothing": 0.1}, "metric is 'nothing', allowed: face_found"),
        ({"face_count": 0.1}, "'face_count' has no direction"),
        ({"text_score": -1.0}, "margin of text_score is -1.0, allowed: 0 or more"),
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
        (["--fail", "identity_facenet=0.02"], 1, "FELL  infinite_id"),
        (["--fail", "identity_facenet=x"], 2, "allowed: METRIC=NUMBER"),
    ],
)
def test_the_command_is_a_gate(folders, options, code, words):
    command = [sys.executable, str(ROOT / "jobs" / "compare.py"), *map(str, folders), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
