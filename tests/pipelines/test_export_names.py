"""Names from outside become folders of an export, and come back as they were."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infinite_id.config import preset
from pipelines.export.job import _split, export_run
from pipelines.plan.requests import PlanSettings, RequestPlan, Subject, Text
from pipelines.run.folder import RunFolder, Timings
from pipelines.run.lease import Lease
from pipelines.run.units import unit_table
from pipelines.stages.generation import GenerationActor
from pipelines.stages.scoring import ScoringActor
from pipelines.tables.storage import Store
from tests.pipelines.conftest import embeddings_table

STYLES = ["50% off", "a/b", "../../escape", "Grüße", "x=y", "b[1]", "a%2Fb", "."]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a picture in each style, made by the real actors without Ray."""
    store = Store(tmp_path_factory.mktemp("names") / "run")
    store.write_table("embeddings/part-000000000.parquet", embeddings_table(1))
    plan = RequestPlan(
        methods=[("timed", "revision-1")],
        texts=[Text("p", style, f"a {{subject}} in {style}", "", "") for style in STYLES],
        subjects=[Subject("id0", "woman", "d0")],
        seeds=[0],
        settings=PlanSettings(64, 64, 1, 5.0),
        unit_size=4,
    )
    generate = GenerationActor(store, plan, preset("pocket"))
    score = ScoringActor(store, plan, ["face_count"], "pocket")
    for unit in range(plan.units):
        score(generate(unit_table([unit])))
    store.write_bytes("run.json", b"{}")
    return store


def test_every_style_is_read_back_and_nothing_lies_outside(finished, tmp_path):
    import duckdb

    output = tmp_path / "deep" / "deeper" / "export"
    export_run(finished, Store(output), partition=["method", "style"])
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep" / "deeper").iterdir()] == ["export"]
    table = ds.dataset(output, partitioning="hive", exclude_invalid_files=True).to_table()
    assert sorted(table["style"].to_pylist()) == sorted(STYLES)
    read = duckdb.read_parquet(f"{output}/**/*.parquet", hive_partitioning=True)
    assert sorted(row[0] for row in read.select("style").fetchall()) == sorted(STYLES)


def test_shards_have_every_style(finished, tmp_path):
    import webdataset

    files = export_run(finished, Store(tmp_path), format="webdataset", partition=["style"])
    shards = [str(tmp_path / file.name) for file in files]
    rows = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    # Readers of shards take the style from the file, not from the folder.
    assert sorted(json.loads(row["json"])["style"] for row in rows) == sorted(STYLES)


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("../../x")
@example("a b")
@example("%41")
@example("'\"\\:?#*{}[]^\x7f\n")
def test_any_text_is_one_folder_and_comes_back(style):
    import duckdb

    # A reader guesses types: a name of digits alone would be a number to it.
    table = pa.table({"style": [f"n{style}"], "n": [1]})
    try:
        [(folder, part)] = list(_split(table, ["style"]))
    except ValueError as error:
        assert "allowed: at most 255" in str(error)  # noqa: PT017
        return
    assert folder.count("/") == 1
    with tempfile.TemporaryDirectory() as place:
        Path(place, folder).mkdir()
        pq.write_table(part, Path(place, folder, "part.parquet"))
        read = ds.dataset(place, partitioning="hive").to_table()
        assert read["style"].to_pylist() == [f"n{style}"]
        found = duckdb.read_parquet(f"{place}/**/*.parquet", hive_partitioning=True)
        assert found.select("style").fetchall() == [(f"n{style}",)]


def test_a_name_longer_than_a_folders_is_one_sentence():
    with pytest.raises(ValueError, match=r"has 300 bytes as a folder's name, allowed: at most 255"):
        list(_split(pa.table({"style": ["x" * 300]}), ["style"]))


def test_a_folder_that_holds_something_else_is_refused(finished, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'thesis.tex' and no export, allowed: a new or"):
        export_run(finished, Store(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="and no export, allowed"):
        export_run(finished, finished)


def test_what_another_writes_below_is_not_swept(finished, tmp_path):
    """An export that is under way inside a run folder, and one inside another export."""
    torn = []
    for inside in ("run/exports/a", "export/again"):
        folder = tmp_path / inside
        folder.mkdir(parents=True)
        torn.append(folder / ".writing-1-part-000000.parquet")
        torn[-1].write_bytes(b"under way")
    run = RunFolder(str(tmp_path / "run2"))
    (tmp_path / "run2" / "images").mkdir(parents=True)
    mine = tmp_path / "run2" / "images" / ".writing-0-part-000000000.parquet"
    mine.write_bytes(b"torn")
    (tmp_path / "run2" / "exports").mkdir()
    theirs = tmp_path / "run2" / "exports" / ".writing-0-part-000000.parquet"
    theirs.write_bytes(b"under way")
    with Lease(run.store), run.recording(Timings({}), digests={}):
        assert not mine.exists()
        assert theirs.exists()
    (tmp_path / "export" / "_export_settings.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an export with"):
        export_run(finished, Store(tmp_path / "export"))
    assert all(path.exists() for path in torn)
