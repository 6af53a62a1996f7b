"""Commands over a run folder take its path as it is, whatever stands in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.benchmark import benchmark
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
PHOTO = Path(__file__).parents[1] / "assets" / "person0_0.png"


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


@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.mark.ray
@pytest.mark.timeout(600)
@settings(max_examples=1, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES)
@example("b[1]{2} p%20q%2F ~$HOME")
@example("a::b ?x=1&y#z*é\u0130\U0001f600")
def test_benchmark_and_what_follows_it(shared_ray, template, monkeypatch, name):
    """Output, photos, prompts, styles, configuration and tracking store all lie below the name."""
    with contextlib.ExitStack() as stack:
        folder, elsewhere = (stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2))
        base = Path(folder, name)
        photos, run = base / "photos" / name, base / "runs" / name
        photos.mkdir(parents=True)
        run.parent.mkdir()
        shutil.copy(PHOTO, photos / "ann.png")
        (base / f"styles {name}.csv").write_text("style,suffix\nraw,photo\n")
        (base / f"{name}.yaml").write_text("set_pictures: 0\nmethods: [timed]\nmetrics: [timed]\n")
        # Where the machine lets it, a file that lies in the root folder.
        top = "/" if os.access("/", os.W_OK) else elsewhere
        prompts = stack.enter_context(
            tempfile.NamedTemporaryFile("w", dir=top, prefix=f"{name} ", suffix=".csv")
        )
        print("prompt_id,text\nbeach,a {subject} on the beach", file=prompts, flush=True)
        shutil.copy(template, run.parent / "mlflow.db")
        given_files = sorted(base.rglob("*"))
        monkeypatch.chdir(folder)
        said = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        benchmark(
            config=str(base / f"{name}.yaml"),
            identities=str(photos),
            prompts=prompts.name,
            styles=f"./{name}/styles {name}.csv",
            output=str(run),
        )
        report(str(run))
        compare([str(run), str(run)])
        status(str(run))
        export(str(run), output=str(base / f"set {name}"))
        shown = said.getvalue()
        assert f"Parquet:  {run}/{{faces," in shown
        assert "1 pictures of 1 people" in shown
        assert pq.read_table(run / "images").num_rows == 1
        found = json.loads((run / "report" / "report.json").read_text())
        assert [row["pictures"] for row in found["methods"]] == [1]
        with contextlib.closing(sqlite3.connect(run.parent / "mlflow.db")) as store:
            assert store.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)] * 2
        assert [path.name for path in (base / f"set {name}").glob("*.parquet")]
        # And nothing beside it, below another reading of the name.
        assert [path.name for path in Path(folder).iterdir()] == [name]
        assert not set(given_files) - set(base.rglob("*"))
        assert {path.name for path in base.iterdir()} == {
            "photos", "runs", f"{name}.yaml", f"styles {name}.csv", f"set {name}",
        }  # fmt: skip
        assert {path.name for path in run.parent.iterdir()} == {name, "mlflow.db", "mlruns"}
