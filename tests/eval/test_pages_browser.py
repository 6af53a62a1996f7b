"""The pages in a real browser: pictures load, nothing overflows, numbers lead to pictures."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest

from eval.reports.collection import write_collection
from eval.reports.report import write_report
from eval.sets import measure_sets
from tests.eval.browser import look
from tests.eval.runs import write_run

pytestmark = pytest.mark.browser
WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """width -> what the probe found in a report; each width is opened once."""
    folder = tmp_path_factory.mktemp("browser")
    write_run(folder, people=4, seeds=2, untrained=True)
    measure_sets(folder, threads=2)
    page = Path(write_report(folder).html)
    return functools.cache(lambda width: look(page, "report_probe.js", width))


@pytest.fixture
def browser(need):
    need("browser", shutil.which("chromium") is not None, "install Debian's package chromium")


@pytest.fixture(params=WIDTHS)
def seen(request, pages, browser):
    return pages(request.param)


def test_nothing_overflows(seen, request):
    assert seen["width"] == request.node.callspec.params["seen"]
    assert seen["wide"] == []
    assert seen["page"] <= seen["width"]


def test_every_picture_loads_and_no_script_fails(seen):
    assert seen["problems"] == []
    # Two plots, 60 of the list, 4 x 3 with their references in the grid, 2 x 6 x 2 extremes.
    assert seen["images"] == 2 + 60 + 4 * (3 + 1) + 24
    assert seen["grid"] == 12


def test_a_number_leads_to_its_pictures(seen):
    assert len(seen["behind"]) == 16
    assert all("text_only\nanime" in text for text in seen["behind"])
    assert sum(text.startswith("NaN") for text in seen["behind"]) == 4
    assert seen["focus"] == "pictures"


def test_a_picture_opens_with_its_reference_prompt_and_scores(seen):
    assert seen["open"]
    assert seen["viewerFits"]
    assert "person_0, text_only, anime" in seen["viewer"]
    assert "a woman on the beach <b>&, anime" in seen["viewer"]
    assert "Identity (FaceNet)\n0.000" in seen["viewer"]
    assert "reference" in seen["viewer"]
    assert seen["next"].startswith("person_0, text_only, anime")


def test_the_grid_can_be_turned(seen):
    assert seen["columns"] == ["reference", "raw_photo", "anime"]


def test_everything_can_be_reached_by_keyboard(seen):
    assert seen["unreachable"] == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_of_runs_fits_the_page(tmp_path, browser, width):
    for name in ("one", "two"):
        write_run(tmp_path / name, untrained=name == "two")
        write_report(tmp_path / name)
    # An address is one long word.
    failed = {"four": f"nothing at s3://{'bucket' * 20}"}
    page = Path(write_collection(tmp_path, ["one", "two", "three"], failed))
    found = look(page, "collection_probe.js", width)
    assert found["problems"] == []
    assert found["width"] == width
    assert found["images"] >= 4
    assert found["wide"] == []
    assert found["page"] <= width
    # On a phone a table scrolls within its place; on a desk it is seen whole.
    assert bool(found["cut"]) == (width < 1280)
