"""The report of a run written with the pipeline's schemas: numbers, gaps, foreign tables."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.reports.report import write_report
from pipelines.tables import schemas
from tests.eval.runs import METRICS, face_picture, write_run, write_table


class _Page(HTMLParser):
    """Texts of table rows, ids, addresses, and the data of the script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.links: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self._open: str | None = None
        self.data = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = {name: value or "" for name, value in attributes}
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values)
        self.addresses += [values[n] for n in ("src", "srcset", "href") if n in values]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        self._open = "data" if values.get("id") == "data" else tag

    def handle_data(self, text):
        if self._open == "data":
            self.data += text
        elif self.rows and self.rows[-1] and text.strip():
            self.rows[-1][-1] += f" {text.strip()}"

    def handle_endtag(self, tag):
        self._open = None


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run) -> _Page:
    return _Page((run / "report/report.html").read_text())


@pytest.fixture(scope="module")
def report(run) -> dict:
    return json.loads((run / "report/report.json").read_text())


@pytest.mark.parametrize(
    ("method", "mean", "difference"),
    [("infinite_id", 0.605, None), ("ip_adapter", 0.405, -0.2), ("text_only", None, -0.5)],
)
def test_identity_of_each_method(report, method, mean, difference):
    (row,) = [row for row in report["methods"] if row["method"] == method]
    cell = row["cells"]["identity_facenet"]
    if mean is not None:
        assert cell["mean"] == pytest.approx(mean, abs=1e-6)
    if difference is None:
        assert row["differences"] == {}
    else:
        assert row["differences"]["identity_facenet"]["mean"] == pytest.approx(difference, abs=1e-6)


def test_pictures_without_a_face_are_counted_apart(report):
    (row,) = [r for r in report["styles"] if (r["method"], r["style"]) == ("text_only", "anime")]
    assert (row["scored"], row["no_face"]) == (12, 4)
    cell = row["cells"]["identity_facenet"]
    # Persons 0 and 1 with seeds 0 and 1: the third has no face and is not counted as zero.
    assert (cell["n"], cell["nan"], cell["identities"]) == (8, 4, 2)
    assert cell["mean"] == pytest.approx((0.0 + 0.01 + 0.1 + 0.11) / 4, abs=1e-6)


def test_the_page_shows_the_numbers_of_the_json(page, report):
    (row,) = [r for r in report["styles"] if (r["method"], r["style"]) == ("text_only", "anime")]
    cell = row["cells"]["identity_facenet"]
    line = next(r for r in page.rows if "text_only" in r[0] and "33.3 %" in r[2])
    assert line[1:3] == [" 12", " 33.3 % 4 of 12"]
    assert f"{cell['mean']:.3f}" in " ".join(line)
    assert "n 8, 4 NaN" in " ".join(line)


def test_the_markdown_shows_the_numbers_of_the_json(run, report):
    text = (run / "report/report.md").read_text()
    cell = report["methods"][0]["cells"]["text_score"]
    interval = f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
    assert re.search(rf"\| infinite_id \| 24 \| 0 \|.*{re.escape(interval)}", text)
    named = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(named) == 3
    assert all((run / "report" / name).is_file() for name in named)


def test_every_number_leads_to_its_pictures(page, report):
    data = json.loads(page.data)
    links = [link for link in page.links if link.get("class") == "number"]
    assert len(links) >= len(report["styles"]) * (len(METRICS) - 1)
    assert all(link["href"] == "#pictures" for link in links)
    target = next(
        x for x in links if (x["data-method"], x.get("data-style")) == ("text_only", "anime")
    )
    behind = [
        sample
        for sample in data["samples"]
        if (sample["method"], sample["style"]) == (target["data-method"], target["data-style"])
    ]
    assert len(behind) == 12
    assert sum(sample["scores"]["identity_facenet"] is None for sample in behind) == 4


def test_the_page_needs_no_network_and_its_ids_are_unique(page):
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {link["href"][1:] for link in page.links} <= set(page.ids)


def test_prompts_are_data_and_not_markup(run, page):
    assert any("<b>&" in prompt for prompt in json.loads(page.data)["prompts"])
    assert "<b>&" not in (run / "report/report.html").read_text()


def test_the_pictures_in_the_page_are_those_of_the_run(page, run):
    stored = pq.read_table(run / "images", columns=["sample_id", "image"]).to_pylist()
    for row, sample in zip(stored[:3], json.loads(page.data)["samples"][:3], strict=True):
        assert sample["sample_id"] == row["sample_id"]
        small = Image.open(io.BytesIO(base64.b64decode(sample["src"].split(",")[1])))
        original = Image.open(io.BytesIO(row["image"]))
        assert small.size == (64, 64)
        assert small.convert("RGB").resize((1, 1)).getpixel((0, 0)) == pytest.approx(
            original.resize((1, 1)).getpixel((0, 0)), abs=6
        )


def test_without_a_single_face_there_is_no_scatter(tmp_path):
    write_run(tmp_path, people=2, seeds=1)
    part = tmp_path / "scores/part-0.parquet"
    table = pq.read_table(part)
    column = table.column_names.index("identity_facenet")
    nothing = pa.array([float("nan")] * len(table), pa.float32())
    pq.write_table(table.set_column(column, "identity_facenet", nothing), part)
    paths = write_report(tmp_path)
    page = _Page(Path(paths.html).read_text())
    assert not any(name.endswith("scatter.png") for name in paths.figures)
    assert (
        next(row for row in page.rows if row[0] == " infinite_id reference")[4] == " – n 0, 8 NaN"
    )


@pytest.mark.parametrize("name", ["scatter", "styles", "grid"])
def test_figures_are_pictures_for_pages_and_for_papers(run, name):
    with Image.open(run / f"report/figures/{name}.png") as figure:
        assert figure.width <= 3.3 * 300 + 1
        assert len(figure.convert("RGB").getcolors(1 << 24)) > 20
    drawing = (run / f"report/figures/{name}.svg").read_text()
    assert "<svg" in drawing
    assert drawing.rstrip().endswith("</svg>")
    paper = (run / f"report/figures/{name}.pdf").read_bytes()
    assert paper.startswith(b"%PDF")
    assert b"/Type3" not in paper


def test_worst_and_best_are_the_extremes(report):
    worst = report["extremes"]["identity_facenet"]["worst"]
    best = report["extremes"]["identity_facenet"]["best"]
    # text_only with person 0 and seed 0 has 0.0; infinite_id with the last person and seed 1 0.71.
    assert {int(name, 16) % 3 for name in worst[:4]} == {0}
    assert {int(name, 16) % 3 for name in best[:4]} == {2}
    assert "face_count" not in report["extremes"]


def test_untrained_weights_are_said(run, tmp_path):
    write_run(tmp_path, people=2, seeds=1, untrained=True)
    write_report(tmp_path)
    sentence = "Untrained weights: pictures are noise."
    for name in ("report.html", "report.md"):
        assert sentence in (tmp_path / "report" / name).read_text()
        assert sentence not in (run / "report" / name).read_text()


def test_at_most_max_pictures_are_in_the_page_and_all_are_counted(tmp_path):
    write_run(tmp_path, people=2, seeds=1)
    page = _Page(Path(write_report(tmp_path, max_pictures=10).html).read_text())
    assert len(json.loads(page.data)["samples"]) == 10
    assert any(row[:2] == [" infinite_id reference", " 8"] for row in page.rows)


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        ("scores", "table scores is missing"),
        ("images", "table images is missing"),
        ("requests", "table requests is missing"),
        ("run.json", "run.json is missing or unreadable"),
        ("embeddings", None),
        ("rejects", None),
    ],
)
def test_a_partly_failed_run_gives_a_report_that_says_so(tmp_path, removed, sentence):
    write_run(tmp_path, people=2, seeds=1)
    target = tmp_path / removed
    if target.is_dir():
        (target / "part-0.parquet").unlink()
    else:
        target.unlink()
    paths = write_report(tmp_path)
    missing = json.loads(Path(paths.json).read_text())["missing"]
    if sentence is None:
        assert missing == []
    else:
        assert any(line.startswith(sentence) for line in missing)
        assert sentence in Path(paths.html).read_text()
        assert sentence in Path(paths.markdown).read_text()


def test_undone_and_rejected_requests_are_told_apart(tmp_path):
    samples = write_run(tmp_path, people=2, seeds=1)
    keys = [sample["sample_id"] for sample in samples]
    for name in ("images", "scores"):
        table = pq.read_table(tmp_path / name)
        pq.write_table(table.slice(5), tmp_path / name / "part-0.parquet")
    reject = {"stage": "images", "reason": "error", "message": "failed three times"}
    write_table(tmp_path, "rejects", [reject | {"key": key} for key in keys[:2]], schemas.REJECTS)
    missing = json.loads(Path(write_report(tmp_path).json).read_text())["missing"]
    assert missing == [
        f"5 of {len(keys)} requests have no picture: 2 were rejected with a reason, 3 are not done"
    ]


def test_a_broken_picture_is_said_and_the_rest_is_shown(tmp_path):
    write_run(tmp_path, people=2, seeds=1, picture=lambda n: b"no" if n == 0 else face_picture(n))
    paths = write_report(tmp_path)
    missing = json.loads(Path(paths.json).read_text())["missing"]
    assert missing == [f"picture {0:032x} cannot be decoded"]
    assert len(json.loads(_Page(Path(paths.html).read_text()).data)["samples"]) == 23


@pytest.mark.parametrize("table", ["scores", "images"])
def test_a_table_of_another_run_is_one_clear_error(tmp_path, table):
    write_run(tmp_path / "a", people=2, seeds=1)
    write_run(tmp_path / "b", people=3, seeds=1)
    part = Path(table, "part-0.parquet")
    (tmp_path / "a" / part).write_bytes((tmp_path / "b" / part).read_bytes())
    with pytest.raises(ValueError, match=rf"table {table} of .* another run: 12 of its 36"):
        write_report(tmp_path / "a")


def test_rows_twice_are_counted_once(tmp_path):
    write_run(tmp_path, people=2, seeds=1)
    part = tmp_path / "scores/part-0.parquet"
    (tmp_path / "scores/part-1.parquet").write_bytes(part.read_bytes())
    report = json.loads(Path(write_report(tmp_path).json).read_text())
    assert report["missing"] == ["table scores has 24 rows twice, the first of each is counted"]
    assert report["methods"][0]["scored"] == 8


@pytest.mark.parametrize("alone", [False, True])
def test_an_unreadable_file_is_said_and_left_out(tmp_path, alone):
    write_run(tmp_path, people=2, seeds=1)
    torn = tmp_path / "scores" / ("part-0.parquet" if alone else "part-1.parquet")
    torn.write_bytes(b"PAR1 torn")
    report = json.loads(Path(write_report(tmp_path).json).read_text())
    assert f"file {torn} of table scores is unreadable" in report["missing"]
    assert report["methods"][0]["scored"] == (0 if alone else 8)


def test_files_being_written_are_passed_over(tmp_path):
    write_run(tmp_path, people=2, seeds=1)
    (tmp_path / "scores/.writing-part-1.parquet").write_bytes(b"half")
    assert json.loads(Path(write_report(tmp_path).json).read_text())["missing"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": "dreambooth"}, "reference is 'dreambooth', allowed: infinite_id, "),
        ({"max_pictures": -1}, "max_pictures is -1"),
    ],
)
def test_wrong_arguments_are_refused(run, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_report(run, **arguments)


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_that_is_no_run_is_refused(tmp_path, make):
    folder = tmp_path / "other"
    if make:
        folder.mkdir()
    with pytest.raises(ValueError, match="no run folder" if make else "does not exist"):
        write_report(folder)


@pytest.mark.parametrize(("people", "seeds", "methods"), [(1, 1, ("infinite_id",))])
def test_one_picture_a_cell_gives_no_interval(tmp_path, people, seeds, methods):
    write_run(tmp_path, people=people, seeds=seeds, methods=methods)
    report = json.loads(Path(write_report(tmp_path).json).read_text())
    cell = report["methods"][0]["cells"]["text_score"]
    assert cell["low"] is None
    assert cell["mean"] == pytest.approx(0.2)
    assert report["reference"] is None


def test_a_thousand_pictures_take_a_minute_and_a_gigabyte_at_most(tmp_path):
    write_run(tmp_path, people=42)
    # Not ru_maxrss: it keeps what the parent used before the new program began.
    program = (
        "import sys; from eval.reports.report import write_report; write_report(sys.argv[1])\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line])"
    )
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path], check=True, capture_output=True, timeout=60
    )
    assert time.perf_counter() - begin < 60
    assert int(result.stdout) * 1024 < 1e9
    data = json.loads(_Page((tmp_path / "report/report.html").read_text()).data)
    assert len(data["samples"]) == 1000


def test_any_file_system_will_do(tmp_path):
    import fsspec

    write_run(tmp_path / "run", people=2, seeds=1)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "run"), "/eval-report", recursive=True)
    paths = write_report("memory://eval-report")
    assert paths.html == "memory://eval-report/report/report.html"
    assert json.loads(memory.cat_file("/eval-report/report/report.json"))["missing"] == []
    memory.rm("/eval-report", recursive=True)
