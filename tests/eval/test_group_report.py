"""Groups in a report: a section of their own, and in no mean of one person."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.group_data import group_tables
from eval.reports.groups import _with_boxes
from eval.reports.report import write_report
from eval.reports.tables import make_tables
from eval.run_data import read_run
from pipelines.tables import schemas
from tests.eval.runs import face_picture, write_run, write_table

NAN = float("nan")
LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]
FACE_LEFT, FACE_RIGHT = [0.1, 0.2, 0.4, 0.7], [0.6, 0.2, 0.9, 0.7]


def add_groups(folder: Path, *, alone: bool = False) -> None:
    """Two groups by infinite_id: one as it was asked for, one with the right face missing; `alone`:
    in the place of all other pictures."""
    samples, seen = [], []
    for number, found in enumerate((True, False)):
        keys = {
            "sample_id": f"group{number}", "identity_id": f"pair{number}", "method": "infinite_id",
            "prompt_id": "beach", "style": "raw_photo", "seed": 0, "prompt": "two people <b>",
        }  # fmt: skip
        people = [f"person_{number}", f"person_{number + 1}"]
        samples.append({
            **keys, "negative_prompt": "", "height": 64, "width": 64, "num_inference_steps": 30,
            "guidance_scale": 5.0, "group_people": people, "group_regions": [LEFT, RIGHT],
            "image": face_picture(number), "format": "png", "seconds": 1.0, "model_revision": "r",
            "face_found": 1.0, "face_count": 2.0, "identity_facenet": NAN, "text_score": 9.0,
        })  # fmt: skip
        for place, person in enumerate(people):
            there = found or place == 0
            seen.append({
                **{name: keys[name] for name in keys if name != "prompt"},
                "person": person, "number": place, "faces": 1 + found,
                "region": (LEFT, RIGHT)[place],
                "face_in_region": (FACE_LEFT, FACE_RIGHT)[place] if there else None,
                "matched_face": (FACE_LEFT, FACE_RIGHT)[place] if there else None,
                "identity": 0.4 if there else NAN, "group_margin": 0.2 if there else NAN,
                "identity_in_region": 0.4 if there else NAN, "mixed_up": False if there else None,
            })  # fmt: skip
    for table, schema in (
        ("requests", schemas.REQUESTS),
        ("images", schemas.IMAGES),
        ("scores", schemas.scores_schema(["face_found", "face_count", "identity_facenet",
                                          "text_score"])),
    ):  # fmt: skip
        (path,) = (folder / table).glob("*.parquet")
        # The column of requests of that name has an address.
        own = [{**one, "image": None} for one in samples] if table == "requests" else samples
        rows = [*([] if alone else pq.read_table(path).to_pylist()), *own]
        write_table(folder, table, rows, schema)
    write_table(folder, "group_scores", seen, schemas.GROUP_SCORES)


def test_groups_stand_apart_and_are_in_no_mean_of_one_person(tmp_path: Path) -> None:
    write_run(tmp_path)
    before = make_tables(read_run(tmp_path)).methods
    add_groups(tmp_path)
    data = read_run(tmp_path)
    assert "pair0" not in data.names("identity_id")
    assert [row.cells for row in make_tables(data).methods] == [row.cells for row in before]
    assert (len(data.groups), data.missing) == (2, [])
    (found,) = group_tables(data.groups)
    assert (found["method"], found["requests"], found["pictures"]) == ("infinite_id", 2, 2)
    assert found["faces_found"]["mean"] == 0.5
    assert found["no_face"] == [0.0, 0.5]
    assert (found["identity"]["mean"], found["identity"]["nan"]) == (pytest.approx(0.4), 1)
    assert found["mixed_up"]["mean"] == 0


def test_the_report_shows_the_groups_with_their_boxes(tmp_path: Path) -> None:
    write_run(tmp_path)
    add_groups(tmp_path)
    paths = write_report(tmp_path)
    page, text = Path(paths.html).read_text("utf-8"), Path(paths.markdown).read_text("utf-8")
    for written in (page, text):
        assert "Several people in one picture" in written
        assert "50.0 %" in written
    assert page.count("<figure><img src=") == 2
    assert "no face" in page.split('id="groups"')[1]
    assert "two people &lt;b&gt;" in page
    (row,) = json.loads(Path(paths.json).read_text("utf-8"))["groups"]
    assert row["group_margin"]["mean"] == pytest.approx(0.2)


@pytest.mark.parametrize("box", [[0.998, 0, 1, 1], [0, 0.999, 1, 1], [0, 0, 0.001, 0.001]])
def test_a_narrow_box_at_the_picture_s_edge_is_drawn(box: list[float]) -> None:
    picture = Image.new("RGB", (64, 48))
    row = {"number": 0, "region": box, "matched_face": box}
    assert _with_boxes(picture, [row]) != _with_boxes(picture, [])


def test_a_run_of_groups_alone_has_a_report(tmp_path: Path) -> None:
    write_run(tmp_path)
    add_groups(tmp_path, alone=True)
    paths = write_report(tmp_path)
    record = json.loads(Path(paths.json).read_text("utf-8"))
    assert record["methods"] == []
    assert [row["pictures"] for row in record["groups"]] == [2]


def test_a_run_without_groups_says_nothing_of_them(tmp_path: Path) -> None:
    write_run(tmp_path)
    paths = write_report(tmp_path)
    assert "Several people" not in Path(paths.html).read_text("utf-8")
    assert json.loads(Path(paths.json).read_text("utf-8"))["groups"] is None
