"""The table for a paper: the numbers of the report, in CSV and LaTeX."""

from __future__ import annotations

import csv
import json

import pytest

from eval.reports.report import write_report
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
    assert [line.split(" & ")[0] for line in body] == [r"infinite\_id", r"text\_only"]
    cell = report["methods"][0]["cells"]["text_score"]
    shown = f"{{{cell['mean']:.3f}}}{{[{cell['low']:.3f},\\ {cell['high']:.3f}]}}"
    assert shown in body[0]
    columns = len(report["metrics"]) + 1
    assert all(line.count(" & ") == columns - 1 and line.endswith(r" \\") for line in body)
    assert text.count("{") == text.count("}")
