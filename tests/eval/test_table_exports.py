"""The table for a paper: the numbers of the report, in CSV and LaTeX."""

from __future__ import annotations

import csv
import json
import math
from types import SimpleNamespace

import pytest

from eval.metric_info import MetricInfo
from eval.reports.exports import latex_table
from eval.reports.formatting import interval, record, value
from eval.reports.report import write_report
from eval.reports.tables import Row
from eval.stats import Summary
from tests.eval.runs import write_run


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path, people=3, seeds=2, methods=("infinite_id", "text_only"))
    write_report(tmp_path)
    return tmp_path / "report"


def test_the_csv_has_the_numbers_of_the_json(run):
    rows = list(csv.DictReader((run / "table.csv").open(newline="")))
    report = json.loads((run / "report.json").read_text())
    assert len(rows) == 2 * len(report["metrics"])
    cells = {row["method"]: row["cells"] for row in report["methods"]}
    for row in rows:
        cell = cells[row["method"]][row["metric"]]
        for end in ("mean", "low", "high"):
            assert (row[end] == "") is (cell[end] is None)
            if row[end]:
                assert float(row[end]) == cell[end]
        assert (int(row["n"]), row["over"]) == (cell["n"], cell["over"])


def test_the_latex_has_a_line_a_method_and_escapes_names(run):
    text = (run / "table.tex").read_text()
    report = json.loads((run / "report.json").read_text())
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    # An interval stands apart from the mean of the next row.
    assert body.pop(1) == r"\addlinespace"
    assert [line.split(" & ")[0] for line in body] == [r"infinite\_id", r"text\_only"]
    cell = report["methods"][0]["cells"]["text_score"]
    shown = f"\\underset{{[{cell['low']:.3f},\\ {cell['high']:.3f}]}}{{{cell['mean']:.3f}}}"
    assert shown in body[0]
    columns = len(report["metrics"]) + 1
    assert all(line.count(" & ") == columns - 1 and line.endswith(r" \\") for line in body)
    assert text.count("{") == text.count("}")


def test_the_latex_says_what_a_caption_needs(run):
    text = (run / "table.tex").read_text()
    comments = [line for line in text.splitlines() if line.startswith("% ")]
    assert "% 48 pictures of 3 people, preset pocket" in comments
    assert "% brackets: 95 % intervals over people and seeds, for these prompts only" in comments
    head = text.split(r"\midrule")[0].splitlines()[-1]
    assert r"Face found (\%) $\uparrow$" in head


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(1.0, 1.0, ""), (1.0, 1.0 + 1e-8, ""), (0.9996, 1.0, "[1.000, 1.000]"), (math.nan, 1.0, "")],
)
def test_an_interval_without_width_is_not_shown(low, high, shown):
    assert interval(SimpleNamespace(low=low, high=high), "cosine") == shown
    whole = {"mean": 1.0, "low": None if math.isnan(low) else low, "high": high}
    assert record(whole, "cosine") == f"1.000 {shown}".strip()


def test_the_latex_of_angles_has_their_unit():
    cell = Summary(
        mean=19.876, n=4, identities=4, low=0.04, high=39.7, error=9.0, df=3.0, skew=0.0,
        over="people", nan=0,
    )  # fmt: skip
    row = Row("infinite_id", None, None, 4, 4, 4, 4, 0, {"pose_yaw": cell}, {})
    info = MetricInfo("pose_yaw", "Yaw difference", None, (0.0, 180.0), "degrees", "", "")
    text = latex_table([row], [info])
    assert r"Yaw difference ($^\circ$) \\" in text
    assert r"$\underset{[0.0,\ 39.7]}{19.9}$" in text


@pytest.mark.parametrize(
    ("number", "unit", "signed", "text"),
    [
        (-0.0001, "cosine", False, "0.000"),
        (-0.0001, "cosine", True, "0.000"),
        (0.0, "share", True, "0.0 %"),
        (-0.0006, "cosine", False, "−0.001"),
        (0.5, "share", True, "+50.0 %"),
        (-0.05, "share", False, "−5.0 %"),
        (None, "cosine", False, "–"),
        (-12.345, "degrees", True, "−12.3°"),
        (0.04, "degrees", False, "0.0°"),
    ],
)
def test_nothing_is_less_than_nothing(number, unit, signed, text):
    assert value(number, unit, signed=signed) == text
