"""Commands over a run folder take its path as it is, whatever stands in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.compare import compare
from jobs.export import export
from jobs.report import report, status
from tests.eval.runs import write_run

NAMES = st.text(
    st.one_of(
        st.sampled_from(list("[]*?#~%:\\'\" ")),
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"),
    ),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 100)


@pytest.fixture(scope="module")
def place():
    """A folder that holds a run, which each example calls otherwise."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name, "first", "run")
        write_run(run, people=2, seeds=1)
        for table in ("images", "scores"):
            (run / table / "part-0.parquet").rename(run / table / "part-000000000.parquet")
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(record | {"updated": record["created"]}))
        yield Path(name)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES)
@example("b[1]")
@example("p%20q")
@example("a::b ?#~*")
def test_report_compare_export_and_status(place, name):
    (here,) = place.iterdir()
    base = here.rename(place / name)
    run, said = base / "run", io.StringIO()
    with contextlib.redirect_stdout(said):
        report(str(run))
        compare([str(run), str(run)])
        status(str(run))
        with tempfile.TemporaryDirectory(dir=base, prefix="export [2]") as output:
            export(str(run), output=output)
            assert list(Path(output).glob("*.parquet"))
    found = json.loads((run / "report" / "report.json").read_text())
    assert sum(row["pictures"] for row in found["methods"]) == 24
    assert [path.name for path in place.iterdir()] == [name]
    assert [path.name for path in base.iterdir()] == ["run"]
