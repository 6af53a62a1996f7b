"""n counts different pictures, and marks wait for twenty people."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from eval.reports.report import write_report
from eval.reports.tables import make_tables
from eval.run_data import read_run
from eval.units import units_of_samples
from jobs.report import show_report
from pipelines.tables import schemas
from tests.eval.runs import PROMPTS, STYLES, face_picture, write_run, write_table

METHODS = ("infinite_id", "text_only")


def _marked(png: bytes, name: str) -> bytes:
    """As a run writes it: the mark of AI origin names the request, so that no two are equal."""
    stream, mark = io.BytesIO(), PngInfo()
    mark.add_itxt("XML:com.adobe.xmp", f"<dc:identifier>{name}</dc:identifier>")
    with Image.open(io.BytesIO(png)) as picture:
        picture.save(stream, "PNG", pnginfo=mark)
    return stream.getvalue()


def _run(folder: Path, people: int) -> Path:
    """text_only answers every person with the same picture of a text and seed."""
    each = len(PROMPTS) * len(STYLES) * 2 * people

    def picture(number: int) -> bytes:
        seed = number if number < each else 10_000 + (number - each) // people
        return _marked(face_picture(seed), f"sample {number}")

    write_run(folder, people=people, seeds=2, methods=METHODS, picture=picture)
    return folder


def test_one_picture_for_all_people_counts_once(tmp_path):
    data = read_run(_run(tmp_path, 3))
    ours, theirs = make_tables(data).methods
    assert (ours.scored, ours.distinct) == (24, 24)
    assert (theirs.scored, theirs.distinct) == (24, 8)
    assert theirs.cells["text_score"].n == 8
    # Two prompts in two styles, two seeds each: over seeds, for these prompts only.
    assert theirs.cells["text_score"].over == "people and seeds, for these prompts only"
    # Of pairs, none are the same: infinite_id's half differs.
    assert theirs.differences["text_score"].n == 24


def test_the_printed_table_counts_them_and_begins_with_margin_and_rank1(tmp_path, capsys):
    found = {"margin": {"mean": 0.25}, "rank1": {"mean": 0.5}}
    sets = {"identity": {"people": 3, "chance": 1 / 3, "held_out": 0, "methods": {}}}
    summary = {"low": None, "high": None, "n": 24, "nan": 0, "identities": 3, "over": ""}
    whole = {name: {**cell, **summary} for name, cell in found.items()}
    sets["identity"]["methods"]["infinite_id"] = {**whole, "by_person": []}
    (_run(tmp_path, 3) / "sets.json").write_text(json.dumps(sets | {"bounds": {}}))
    show_report(str(tmp_path))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["method,", "by", "style", "n", "margin", "rank-1", "face", "FaceNet", "text"] in lines
    (ours,), (theirs,) = (
        [line for line in lines if line[:1] == [name]] for name in ("infinite_id", "text_only")
    )
    assert ours[1:4] == ["24", "0.250", "0.500"]
    assert theirs[1:4] == ["8", "-", "-"]


def test_the_report_says_the_number_and_what_the_intervals_are_over(tmp_path):
    paths = write_report(_run(tmp_path, 3))
    page, text = Path(paths.html).read_text(), Path(paths.markdown).read_text()
    assert "<td>8<small>for 24 requests</small></td>" in page
    for shown in (page, text):
        assert "people and seeds, for these prompts only" in shown
        assert "3 people are too few" in shown
    assert (
        "people and seeds"
        in json.loads(Path(paths.json).read_text())["methods"][0]["cells"]["text_score"]["over"]
    )


def test_a_picture_that_differs_counts(tmp_path):
    folder = _run(tmp_path, 3)
    path = folder / "images" / "part-0.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    # The first probe of text_only: its first two people.
    rows[24]["image"] = face_picture(777)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    assert make_tables(read_run(folder)).methods[1].distinct == 24


@pytest.mark.parametrize(("people", "marked"), [(19, False), (20, True)])
def test_bold_needs_twenty_people(tmp_path, people, marked):
    page = Path(write_report(_run(tmp_path, people)).html).read_text()
    (row,) = (r for r in make_tables(read_run(tmp_path)).methods if r.differences)
    assert row.differences["identity_facenet"].marked is marked
    assert row.differences["face_found"].marked is False
    cells = [part for part in page.split("<td") if "text_only, Identity (FaceNet) −" in part]
    bold = [not part.startswith(' class="faint"') for part in cells]
    assert any(bold) is marked
    assert list(itertools.compress(cells, bold)) or not marked


def test_intervals_hold_no_impossible_values(tmp_path):
    """text_only has no face of the last person in anime: of few people a t reaches below 0."""
    write_run(tmp_path, people=5, seeds=2)
    rows = make_tables(read_run(tmp_path)).styles
    (row,) = [r for r in rows if (r.method, r.style) == ("text_only", "anime")]
    cell = row.cells["face_count"]
    assert (cell.low, cell.mean) == (0.0, pytest.approx(0.8))
    assert cell.error > 0.15


def test_two_prompts_of_one_text_are_one_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.eval.runs.PROMPTS", dict.fromkeys(PROMPTS, "a person"))
    each = len(STYLES) * 2 * 3

    def picture(number: int) -> bytes:
        place = number % (len(PROMPTS) * each)
        return _marked(face_picture(place % each), f"sample {number}")

    write_run(tmp_path, people=3, seeds=2, methods=("infinite_id",), picture=picture)
    data = read_run(tmp_path)
    (ours,) = make_tables(data).methods
    assert (ours.scored, ours.distinct) == (each * len(PROMPTS), each)
    units = units_of_samples(data.samples, np.arange(len(data)))
    assert len(np.unique(units.unit)) == len(STYLES) * 2


@pytest.mark.parametrize(
    "given",
    [
        lambda prompt: {"image": f"{prompt}.png", "strength": 0.6},
        lambda prompt: {"control_keypoints": [0.3 if prompt == "beach" else 0.6] * 10},
    ],
    ids=["image", "keypoints"],
)
def test_two_prompts_of_one_text_in_different_pictures_are_two(tmp_path, monkeypatch, given):
    monkeypatch.setattr("tests.eval.runs.PROMPTS", dict.fromkeys(PROMPTS, "a person"))
    samples = write_run(tmp_path, people=3, seeds=2, methods=("infinite_id",))
    rest = {"negative_prompt": "", "height": 64, "width": 64}
    rest |= {"num_inference_steps": 30, "guidance_scale": 5.0}
    rows = [one | rest | given(one["prompt_id"]) for one in samples]
    write_table(tmp_path, "requests", rows, schemas.REQUESTS)
    data = read_run(tmp_path)
    (ours,) = make_tables(data).methods
    assert ours.distinct == ours.scored == len(samples)
    units = units_of_samples(data.samples, np.arange(len(data)))
    assert len(np.unique(units.unit)) == len(PROMPTS) * len(STYLES) * 2
