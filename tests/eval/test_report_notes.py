"""What a run's inputs left out stands in its report."""

from __future__ import annotations

import json
from pathlib import Path

from eval.reports.report import write_report
from tests.eval.runs import write_run


def test_notes_on_the_inputs_stand_in_every_form_of_the_report(tmp_path: Path) -> None:
    write_run(tmp_path / "run", people=1, seeds=1)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["notes"] = ["9 entries: 7 photos of 7 people, 2 left out", "left out, hidden: <b>.x"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    paths = write_report(tmp_path / "run")
    page = Path(paths.html).read_text()
    assert "9 entries: 7 photos of 7 people, 2 left out" in page
    assert "left out, hidden: &lt;b&gt;.x" in page
    assert "- left out, hidden: <b>.x" in Path(paths.markdown).read_text()
    assert json.loads(Path(paths.json).read_text())["run"]["notes"] == record["notes"]
