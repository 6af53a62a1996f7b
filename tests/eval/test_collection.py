"""One page over several reports, and the grids of derived people."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.reports.collection import write_collection
from eval.reports.report import write_report
from eval.reports.report_figures import make_sheets
from eval.reports.tables import make_tables
from eval.run_data import read_run
from pipelines.tables import schemas
from tests.eval.runs import write_run, write_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("collection")
    for name in ("one", "two"):
        write_run(place / name, untrained=name == "two")
        write_report(place / name)
    scenario = {"title": "Title <b>&", "note": "A note."}
    (place / "one" / "scenario.json").write_text(json.dumps(scenario))
    return place


@pytest.fixture(scope="module")
def page(folder):
    address = write_collection(folder, ["one", "two", "three"], {"four": "nobody's photo"})
    return Path(address).read_text("utf-8")


@pytest.mark.parametrize(
    "words",
    [
        "Title &lt;b&gt;&amp;",
        'href="one/report/report.html"',
        "Untrained weights: pictures are noise.",
        "four: nobody&#39;s photo",
        "three: run folder",
        "0.605",
    ],
)
def test_the_page_holds_titles_links_numbers_and_what_is_missing(page, words):
    assert words in page


def test_the_page_needs_no_network(page):
    assert "http://" not in page
    assert "https://" not in page
    assert page.count('src="data:image/png;base64,') == page.count("<img")


def grid(folder: Path, scenario: dict) -> Image.Image:
    data = read_run(folder)
    found = make_sheets(data, make_tables(data), scenario)
    return Image.open(io.BytesIO(found["grid"]["light"]))


def test_variants_stand_across_and_their_people_down(tmp_path):
    write_run(tmp_path / "run", methods=("infinite_id",))
    variants = {f"person_{n}": {"of": "person_0", "x": 2**n} for n in range(3)}
    wide = grid(tmp_path / "run", {"across": "identity_id", "variants": variants})
    tall = grid(tmp_path / "run", {})
    # One row with the reference and three factors against three people in two styles.
    assert wide.width / wide.height > 2
    assert tall.width / tall.height < 1.2


def test_mixes_stand_between_their_people(tmp_path):
    write_run(tmp_path / "run", methods=("infinite_id",))
    path = tmp_path / "run" / "requests" / "part-0.parquet"
    rows = pq.read_table(path).to_pylist()
    parts = [{"identity_id": f"person_{n}", "weight": 0.5} for n in (0, 1)]
    for row in rows:
        if row["identity_id"] == "person_2":
            row |= {"mix_parts": parts, "mix_mode": "interpolate"}
    write_table(tmp_path / "run", "requests", rows, schemas.REQUESTS)
    data = read_run(tmp_path / "run")
    assert data.people() == ["person_0", "person_1"]
    assert set(data.samples["person"]) == {"person_0", "person_1", "person_0 + person_1"}
    found = grid(tmp_path / "run", {"across": "identity_id"})
    # Reference, the mix, the second person.
    assert 2 < found.width / found.height < 3
