"""Commands over a run folder take its path as it is, whatever stands in it."""

from __future__ import annotations

import json

import pytest

from jobs.compare import compare
from jobs.export import export
from jobs.report import report, status
from tests.eval.runs import write_run


@pytest.mark.parametrize("name", ["b[1]", "p%20q", "a::b ?#~*"])
def test_report_compare_export_and_status(tmp_path, capsys, name):
    run = tmp_path / name / "run"
    write_run(run, people=2, seeds=1)
    for table in ("images", "scores"):
        (run / table / "part-0.parquet").rename(run / table / "part-000000000.parquet")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"updated": record["created"]}))
    report(str(run))
    found = json.loads((run / "report" / "report.json").read_text())
    assert sum(row["pictures"] for row in found["methods"]) == 24
    compare([str(run), str(run)])
    status(str(run))
    output = tmp_path / name / "export [2]"
    export(str(run), output=str(output))
    said = capsys.readouterr().out
    assert str(output) in said
    assert "done:" in said
    assert list(output.glob("*.parquet"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
