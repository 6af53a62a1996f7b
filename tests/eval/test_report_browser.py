"""The report in a real browser: pictures load, nothing overflows, numbers lead to pictures."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.report import write_report
from eval.sets import measure_sets
from tests.eval.runs import write_run

pytestmark = pytest.mark.browser

# A headless window is at least 500 px wide, a frame is as narrow as it is told to be.
FRAME = """<!doctype html><body style="margin:0"><script>
addEventListener("message", (event) => {{
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = event.data;
  document.body.append(out);
}});
</script><iframe src="probed.html" style="border:0;width:{width}px;height:900px"></iframe>"""
PROBE = Path(__file__).with_name("report_probe.js")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=20000",
    "--dump-dom",
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """width -> what the probe found; each page is opened once."""
    folder = tmp_path_factory.mktemp("browser")
    write_run(folder, people=4, seeds=2, untrained=True)
    measure_sets(folder, threads=2)
    page = Path(write_report(folder).html)
    probed = page.with_name("probed.html")
    script = f"</title><script>{PROBE.read_text()}</script>"
    probed.write_text(page.read_text().replace("</title>", script, 1))
    found: dict[int, dict] = {}

    def look(width: int) -> dict:
        if width not in found:
            frame = probed.with_name(f"frame_{width}.html")
            frame.write_text(FRAME.format(width=width))
            command = [str(shutil.which("chromium")), *FLAGS, "--window-size=1400,900"]
            command += [f"--user-data-dir={folder / str(width)}", frame.as_uri()]
            dom = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
            match = re.search(r'<pre id="probe">(.*?)</pre>', dom.stdout, re.DOTALL)
            assert match, f"the page's script did not finish: {dom.stderr[-1000:]}"
            found[width] = json.loads(html.unescape(match[1]))
        return found[width]

    return look


@pytest.fixture(params=[1280, 390])
def seen(request, pages, need):
    need("browser", shutil.which("chromium") is not None, "install Debian's package chromium")
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
