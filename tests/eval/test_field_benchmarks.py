"""MultiID-Bench and lists of references: folders in their exact layouts, the table's numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.benchmarks.cases import Benchmark, Case, GroupCase
from eval.benchmarks.measure import measure_benchmark
from eval.benchmarks.multiid import read_multiid, read_multiid_groups
from eval.benchmarks.references import read_references
from eval.judges.given import GivenJudges
from eval.reports.report import write_report
from pipelines.plan.requests import PlanSettings, RequestPlan, Subject, Text
from tests.eval.face_networks import save_channel_means
from tests.eval.runs import write_run

ASSETS = Path(__file__).parents[1] / "assets"
PROMPTS = ["a man plays the piano", "a woman in a café"]


def photo(person: int, number: int) -> bytes:
    return (ASSETS / f"person{person}_{number}.png").read_bytes()


def hub(root: Path) -> None:
    """As the data set lies on the hub: the columns of its card, in their types."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [
            ("ID", pa.string()), ("GT", image), ("input_images", pa.list_(image)),
            ("prompt", pa.string()), ("task_type", pa.string()), ("bboxes", pa.string()),
            ("subset", pa.string()), ("num_persons", pa.int32()),
        ]
    )  # fmt: skip

    def picture(person: int, number: int) -> dict:
        return {"bytes": photo(person, number), "path": None}

    rows = [
        {
            "ID": "two", "GT": picture(0, 0), "input_images": [picture(0, 1), picture(1, 1)],
            "prompt": "two people", "task_type": "t2i", "bboxes": "[]", "subset": "v202",
            "num_persons": 2,
        },
        *(
            {
                "ID": f"one{n}", "GT": picture(n, 0), "input_images": [picture(n, 1)],
                "prompt": PROMPTS[n], "task_type": "t2i", "bboxes": "[[0, 0, 9, 9]]",
                "subset": "v200_single", "num_persons": 1,
            }
            for n in range(2)
        ),
    ]  # fmt: skip
    (root / "data").mkdir()
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, root / "data/train-00000-of-00001.parquet")


def index(root: Path) -> None:
    """As the authors' hf2bench.py writes it."""
    pictures = root / "v200_single/untar"
    pictures.mkdir(parents=True)
    rows = []
    for n in range(2):
        name = f"{n + 2:04d}"
        (pictures / f"{name}.jpg").write_bytes(photo(n, 0))
        (pictures / f"{name}_1.jpg").write_bytes(photo(n, 1))
        (pictures / f"{name}.json").write_text(json.dumps({"caption_en": PROMPTS[n], "bboxes": []}))
        rows.append(
            {"prompt": PROMPTS[n], "image_paths": [f"{name}_1.jpg"], "ori_img_path": f"{name}.jpg"}
        )
    (root / "v200_single.json").write_text(json.dumps(rows, indent=2))
    (root / "v202.json").write_text(json.dumps([{"prompt": "two people"}]))


def folders(root: Path) -> None:
    """As their evaluation reads it."""
    for n in range(3):
        case = root / f"{n + 2:04d}"
        case.mkdir()
        (case / "ori.jpg").write_bytes(photo(n, 0))
        (case / "ref_1.jpg").write_bytes(photo(n, 1))
        (case / "meta.json").write_text(json.dumps({"prompt": [*PROMPTS, "two people"][n]}))
    (root / "0004/ref_2.jpg").write_bytes(photo(3, 1))


@pytest.mark.parametrize("layout", [hub, index, folders])
def test_every_published_layout_gives_the_same_cases(tmp_path, layout):
    layout(tmp_path)
    found = read_multiid(tmp_path)
    assert found.cases == [
        Case(f"{n + 2:04d}", photo(n, 1), photo(n, 0), PROMPTS[n]) for n in range(2)
    ]
    assert found.notes == ["1 case of several people is left out"]


def test_of_one_person_one_reference_is_read(tmp_path):
    index(tmp_path)
    path = tmp_path / "v200_single.json"
    rows = json.loads(path.read_text())
    rows[0]["image_paths"].append("not there.jpg")
    path.write_text(json.dumps(rows))
    assert read_multiid(tmp_path).cases[0].reference == photo(0, 1)


def two(name: str, prompt: str = "two people") -> tuple[list[Case], GroupCase]:
    people = (f"{name}#1", f"{name}#2")
    return [Case(one, photo(n, 1)) for n, one in enumerate(people)], GroupCase(name, people, prompt)


def test_groups_of_every_published_layout_are_read(tmp_path):
    for name in ("hub", "index", "folders"):
        (tmp_path / name).mkdir()
    hub(tmp_path / "hub")
    found = read_multiid_groups(tmp_path / "hub")
    people, group = two("0001")
    assert (found.cases, found.groups) == (people, [group])
    assert found.notes == ["2 cases of one person are left out"]

    index(tmp_path / "index")
    three = ["refs/a/8_1.jpg", "refs/b/8_2.jpg", "refs/c/8_3.jpg"]
    for place, shown in (("v202/untar", ["7_1.jpg", "7_2.jpg"]), ("v200_m", three)):
        for n, name in enumerate(shown):
            path = tmp_path / "index" / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo(n, 1))
        row = {"prompt": place, "image_paths": shown, "ori_img_path": f"{shown[0][-7:-6]}.jpg"}
        (tmp_path / "index" / f"{place.split('/')[0]}.json").write_text(json.dumps([row]))
    found = read_multiid_groups(tmp_path / "index")
    assert [(one.prompt, len(one.people)) for one in found.groups] == [("v202/untar", 2),
                                                                       ("v200_m", 3)]  # fmt: skip
    assert [case.reference for case in found.cases] == [photo(n, 1) for n in (0, 1, 0, 1, 2)]
    assert len({case.case_id for case in found.cases}) == 5
    assert found.notes == ["2 cases of one person are left out"]
    # The indexes number their cases alike.
    rows = json.loads((tmp_path / "index/v202.json").read_text())
    rows[0]["ori_img_path"] = "8.jpg"
    (tmp_path / "index/v202.json").write_text(json.dumps(rows))
    groups = read_multiid_groups(tmp_path / "index").groups
    assert [one.case_id for one in groups] == ["v202_8", "v200_m_8"]
    assert groups[0].people == ("v202_8#1", "v202_8#2")
    (tmp_path / "index/v202.json").unlink()
    assert [one.case_id for one in read_multiid_groups(tmp_path / "index").groups] == ["8"]

    folders(tmp_path / "folders")
    (tmp_path / "folders/0004/ref_1.jpg").write_bytes(photo(0, 1))
    (tmp_path / "folders/0004/ref_2.jpg").write_bytes(photo(1, 1))
    found = read_multiid_groups(tmp_path / "folders")
    people, group = two("0004")
    assert (found.cases, found.groups) == (people, [group])


def test_a_folder_without_groups_and_a_case_without_its_people_are_refused(tmp_path):
    index(tmp_path)
    with pytest.raises(ValueError, match=r"v202\.json, entry 0 lacks prompt, ori_img_path"):
        read_multiid_groups(tmp_path)
    (tmp_path / "v202.json").unlink()
    with pytest.raises(ValueError, match="holds no case of several people, allowed: data/"):
        read_multiid_groups(tmp_path)


def _broken(root: Path, what: str) -> None:
    if what == "column":
        (root / "data").mkdir()
        pq.write_table(pa.table({"GT": ["x"]}), root / "data/train-0.parquet")
    elif what == "outside":
        index(root)
        rows = json.loads((root / "v200_single.json").read_text())
        rows[0]["image_paths"] = ["../../v202.json"]
        (root / "v200_single.json").write_text(json.dumps(rows))
    elif what == "json":
        index(root)
        (root / "v200_single.json").write_text("[")
    elif what == "prompt":
        folders(root)
        (root / "0002/meta.json").write_text("{}")
    elif what == "reference":
        folders(root)
        (root / "0003/ref_1.jpg").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "holds no case of one person, allowed: data/"),
        ("column", "lacks the column 'input_images', present: GT"),
        ("outside", r"picture '\.\./\.\./v202\.json' is not in"),
        ("json", "cannot be read as JSON"),
        ("prompt", "has no prompt, allowed:"),
        ("reference", r"0003: picture 'ref_1\.jpg' is not in"),
    ],
)
def test_a_broken_layout_is_refused_in_a_sentence(tmp_path, what, message):
    _broken(tmp_path, what)
    with pytest.raises(ValueError, match=message):
        read_multiid(tmp_path)


@pytest.mark.parametrize("deeper", [False, True])
def test_references_and_prompts_are_read(tmp_path, deeper):
    photos = tmp_path / "references" if deeper else tmp_path
    photos.mkdir(exist_ok=True)
    for n in range(2):
        (photos / f"photo-{n}.png").write_bytes(photo(n, 0))
    (tmp_path / "prompts.txt").write_text("# of the list\na {subject} on the beach\n\na portrait\n")
    found = read_references(tmp_path)
    assert found.cases == [Case(f"photo-{n}", photo(n, 0)) for n in range(2)]
    assert found.prompts == [("p000", "a {subject} on the beach"), ("p001", "a portrait")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no photo"),
        ({"a.png": b"x"}, r"has no prompts\.txt, allowed: one with a prompt a line"),
        ({"a.png": b"x", "a.jpg": b"x", "prompts.txt": b"x"}, "two photos 'a', allowed: one a"),
        ({"a.png": b"x", "prompts.txt": b"# none\n"}, "holds no prompt"),
    ],
)
def test_a_list_without_what_it_needs_is_refused(tmp_path, files, message):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_references(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read_references(tmp_path / "none")


def test_each_person_gets_the_own_prompt():
    subjects = [Subject("a", "man", "d", prompt="a {subject} {here}"), Subject("b", "woman", "e")]
    plan = RequestPlan(
        methods=[("infinite_id", "r")], texts=[Text("own", "none", "{subject}", "", "")],
        subjects=subjects, seeds=[0], settings=PlanSettings(64, 64, 2, 1.0), unit_size=8,
    )  # fmt: skip
    assert [plan.row(0, n)["prompt"] for n in range(2)] == ["a man {here}", "woman"]
    other = RequestPlan(
        methods=plan.methods, texts=plan.texts, subjects=[Subject("a", "man", "d"), subjects[1]],
        seeds=[0], settings=plan.settings, unit_size=8,
    )  # fmt: skip
    assert other.digest != plan.digest


PEOPLE = 4


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """infinite_id makes the ground truth itself, ip_adapter copies the reference, text_only draws
    no face."""
    folder = tmp_path_factory.mktemp("field")
    each = 2 * 2 * PEOPLE
    blank = np.zeros((64, 64, 3), np.uint8)
    stream = io.BytesIO()
    from PIL import Image

    Image.fromarray(blank).save(stream, "PNG")

    def picture(number):
        method, person = number // each, number % PEOPLE
        return stream.getvalue() if method == 2 else photo(person, method)

    write_run(folder / "run", people=PEOPLE, seeds=1, picture=picture)
    cases = [Case(f"person_{n}", photo(n, 1), photo(n, 0), "x") for n in range(PEOPLE)]
    cases.append(Case("nobody", photo(0, 1), stream.getvalue(), "x"))
    adaface = str(save_channel_means(folder / "ada.onnx"))
    given = GivenJudges({"adaface": adaface})
    benchmark = Benchmark("MultiID-Bench, one person", cases, notes=["1 case is left out"])
    return folder / "run", measure_benchmark(folder / "run", benchmark, judges=given)


def test_the_ground_truth_and_a_copy_stand_at_both_ends(measured):
    _, found = measured
    right, copy = (found["methods"][name] for name in ("infinite_id", "ip_adapter"))
    for network in ("FaceNet", "AdaFace", "mean"):
        assert right[network]["sim_gt"]["mean"] == pytest.approx(1, abs=1e-5)
        assert right[network]["copy_paste"]["mean"] == pytest.approx(-1, abs=1e-3)
        assert copy[network]["sim_ref"]["mean"] == pytest.approx(1, abs=1e-5)
        assert copy[network]["copy_paste"]["mean"] == pytest.approx(1, abs=1e-3)
        # Both are of the same two photos.
        assert copy[network]["sim_gt"]["mean"] == pytest.approx(right[network]["sim_ref"]["mean"])
    assert right["mean"]["clip_i"]["mean"] == pytest.approx(1, abs=1e-5)
    assert copy["mean"]["clip_i"]["mean"] < 1
    assert right["mean"]["aesthetic"]["mean"] is None


def test_a_ground_truth_without_a_face_is_named(measured):
    run, _ = measured
    note = "No face is found in the ground truth of 1 of 5 cases (nobody), which have no Sim(GT)"
    assert f"{note} and CP." in (run / "report/benchmark.md").read_text()


def test_the_mean_is_over_networks_picture_by_picture(measured):
    _, found = measured
    one = found["methods"]["ip_adapter"]
    networks = [one[name]["sim_gt"]["mean"] for name in ("FaceNet", "AdaFace")]
    assert one["mean"]["sim_gt"]["mean"] == pytest.approx(np.mean(networks))
    assert set(found["networks"]) == {"FaceNet", "AdaFace"}


def test_pictures_without_a_face_are_in_no_similarity(measured):
    _, found = measured
    cell = found["methods"]["text_only"]["mean"]["sim_gt"]
    assert (cell["mean"], cell["n"], cell["nan"]) == (None, 0, 16)
    assert found["methods"]["text_only"]["mean"]["clip_t"]["mean"] is not None


def test_copying_counts_where_the_person_is_kept(measured):
    run, found = measured
    kept = found["methods"]["ip_adapter"]["mean"]["copy_paste_kept"]
    rows = list(csv.DictReader(io.StringIO((run / "report/benchmark.csv").read_text())))
    (line,) = [
        row for row in rows
        if (row["method"], row["network"], row["column"])
        == ("ip_adapter", "mean", "copy_paste_kept")
    ]  # fmt: skip
    assert int(line["n"]) == kept["n"] <= 16
    assert kept["n"] + kept["nan"] == 16


def test_the_table_stands_in_the_benchmarks_columns(measured):
    run, found = measured
    text = (run / "report/benchmark.md").read_text()
    head = "| method | Sim(GT) ↑ | Sim(Ref) ↑ | CP ↓ | CP where Sim(GT) > 0.40 ↓ | CLIP-I ↑ | CLIP"
    assert head in text
    assert "1 case is left out." in text
    assert "| infinite_id | 1.000 [" in text
    assert found == json.loads((run / "benchmark.json").read_text())
    assert not math.isnan(found["methods"]["infinite_id"]["mean"]["sim_gt"]["low"])
    write_report(run)  # the run is one like any other
