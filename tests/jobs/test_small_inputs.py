"""Small inputs that once failed, through the commands that a user types; everybody is synthetic."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import cli
from pipelines.serving.page import sample_photo

BEACH = "a {subject} on the beach"


def invoke(capsys, monkeypatch, *arguments: str) -> tuple[int, str]:
    """(exit code, what was said) of `infinite-id ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["infinite-id", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    said = capsys.readouterr()
    return (code if isinstance(code, int) else 0), said.out + said.err


def _text_cases(root: Path) -> None:
    def put(name: str, data: str | bytes) -> None:
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    put("prompts_bom.csv", b"\xef\xbb\xbfprompt_id,text\r\na," + BEACH.encode() + b"\r\n")
    put("prompts_semicolon.csv", f"prompt_id;text\na;{BEACH}\n")
    put("prompts_cr.csv", f"prompt_id,text\ra,{BEACH}\rb,a {{subject}} in snow\r")
    put("prompts_open_quote.csv", 'prompt_id,text\na,"a {subject}\nb,second\nc,third\n')
    put("prompts_surplus_cell.csv", "prompt_id,text\na,a {subject}, on the beach\n")
    put("prompts_long_cell.csv", 'prompt_id,text\na,"' + "word " * 30_000 + '"\n')
    put("prompts_same_text.csv", f"prompt_id,text\na,{BEACH}\nb,{BEACH}\n")
    put("prompts_separator.jsonl", '{"prompt_id": "a", "text": "a {subject}\u2028smiling"}\n')
    put("prompts_broken.jsonl", '{"prompt_id":"a","text":"b"}\n{"prompt_id":"b" "text":"c"}\n')
    put("styles_odd.csv", "style,suffix\n50% off,cheap\na/b,mixed\n../../escape,bad\n")
    put("identities_index.jsonl", '{"identity_id":"a","photos":["x.png"],"face_index":1.7}\n')
    numbers = pa.table({"prompt_id": ["a", "b"], "text": pa.array([1.5, float("nan")])})
    pq.write_table(numbers, root / "prompts_nan.parquet")
    spark = root / "prompts_spark.parquet"
    spark.mkdir()
    (spark / "_SUCCESS").touch()
    table = pa.table({"prompt_id": ["a"], "text": ["a {subject}"]})
    pq.write_table(table, spark / "part-00000.parquet")
    (root / "person-1.png").write_bytes(sample_photo("person-1"))
    image = {"bytes": None, "path": str(root / "person-1.png")}
    hub = pa.table({"identity_id": ["a"], "photos": pa.array([[image]])})
    pq.write_table(hub, root / "identities_hub.parquet")


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("prompts_bom.csv", 0, "1 prompts, valid"),
        ("prompts_semicolon.csv", 0, "1 prompts, valid"),
        ("prompts_cr.csv", 0, "2 prompts, valid"),
        ("prompts_long_cell.csv", 0, "1 prompts, valid"),
        ("prompts_open_quote.csv", 2, "row 0 (line 2): a quote"),
        ("prompts_surplus_cell.csv", 2, "has 3 cells for 2 columns"),
        ("prompts_same_text.csv", 0, "2 prompts, valid"),
        ("prompts_separator.jsonl", 0, "1 prompts, valid"),
        ("prompts_broken.jsonl", 2, "row 1 (line 2)"),
        ("prompts_nan.parquet", 2, "column 'text'"),
        ("prompts_spark.parquet", 0, "1 prompts, valid"),
        ("styles_odd.csv", 0, "3 styles, valid"),
        ("identities_index.jsonl", 2, "value is 1.7, allowed: a whole number, 0 or more"),
        ("identities_hub.parquet", 0, "1 identities, valid"),
    ],
)
def test_manifest_check(capsys, monkeypatch, tmp_path, name, code, said):
    _text_cases(tmp_path)
    found, shown = invoke(capsys, monkeypatch, "manifest", "check", str(tmp_path / name))
    assert (found, said in shown) == (code, True), shown


def _photo(name: str) -> Image.Image:
    image = Image.open(io.BytesIO(sample_photo(name))).convert("RGB")
    return image.resize((256, 256), Image.Resampling.LANCZOS)


def _with_tags(*entries: tuple[int, int, bytes]) -> bytes:
    """A JPEG lying on its side whose EXIF has orientation 6 and `entries` (tag, type, bytes)."""
    buffer = io.BytesIO()
    _photo("person-1").transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95)
    plain = buffer.getvalue()
    rows = [(0x112, 3, struct.pack("<HH", 6, 0)), *entries]
    offset, table, body = 8 + 2 + 12 * len(rows) + 4, b"", b""
    for tag, kind, value in rows:
        table += struct.pack("<HHI", tag, kind, 1)
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack("<I", offset + len(body))
            body += value
    head = struct.pack("<IH", 8, len(rows)) + table + struct.pack("<I", 0)
    blob = b"Exif\0\0II*\0" + head + body
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(blob) + 2) + blob + plain[2:]


def _photo_cases(root: Path) -> None:
    person, other = _photo("person-1"), _photo("person-2")

    def put(name: str, image: Image.Image | bytes, kind: str | None = None) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path, kind)

    for degrees in (90, 180, 270):
        put(f"turned_{degrees}.png", person.rotate(degrees, expand=True))
    put("anna/1.jpg", person)
    put("anna/2.avif", person)
    put("ben/2020/1.jpg", person)
    put("train/cleo/1.jpg", other)
    put("dora.jfif", other, "JPEG")
    put("emil.gif", other)
    put("fay.jpg", person)
    put("fay.png", other)
    put("._fay.jpg", b"\0\5\x16\7" + bytes(60))
    put("__MACOSX/x.png", person)
    put(".ipynb_checkpoints/y.png", person)
    put("gus/1.png", person)
    put("gus/2.png", other)
    put("exif_1.jpg", _with_tags((0x9204, 10, struct.pack("<ii", -1, 0))))
    put("exif_2.jpg", _with_tags((0x11A, 10, struct.pack("<ii", -5, 1))))
    put("exif_3.jpg", _with_tags((0x132, 5, struct.pack("<II", 1, 0))))
    put("no_end.jpg", _with_tags()[:-2])
    (root / "linked").symlink_to(root / "anna", target_is_directory=True)


PEOPLE = {
    "anna": 2, "ben": 1, "cleo": 1, "dora": 1, "emil": 1, "fay": 2, "gus": 2, "linked": 2,
    "turned_90": 1, "turned_180": 1, "turned_270": 1,
    "exif_1": 1, "exif_2": 1, "exif_3": 1, "no_end": 1,
}  # fmt: skip


def test_manifest_build_accounts_for_the_folder(capsys, monkeypatch, tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "manifests"
    _photo_cases(photos)
    code, said = invoke(
        capsys, monkeypatch, "manifest", "build", "--photos", str(photos), "--output", str(output)
    )
    assert code == 0, said
    rows = pq.read_table(output / "identities.parquet").to_pylist()
    assert {row["identity_id"]: len(row["photos"]) for row in rows} == PEOPLE
    assert "22 entries: 19 photos of 15 people, 3 left out" in said
    assert "person 'fay' is put together from fay.jpg, fay.png" in said
    left = (output / "left_out.csv").read_text()
    assert left.splitlines()[1:] == [
        "._fay.jpg,hidden",
        ".ipynb_checkpoints,hidden",
        "__MACOSX,left by an operating system or archive",
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_all_of_them_in_one_run(capsys, monkeypatch, tmp_path):
    """Build, run with two steps, tracked, both exports: every name is read back."""
    import numpy as np
    import webdataset

    texts, photos = tmp_path / "texts", tmp_path / "photos"
    texts.mkdir()
    _text_cases(texts)
    _photo_cases(photos)
    made = tmp_path / "manifests"
    code, said = invoke(
        capsys, monkeypatch, "manifest", "build", "--photos", str(photos), "--output", str(made),
        "--prompts", str(texts / "prompts_same_text.csv"),
        "--styles", str(texts / "styles_odd.csv"),
    )  # fmt: skip
    assert code == 0, said
    bad = ("ftp://h.invalid/x.jpg", "hf://nobody/nothing/x.jpg", "zip://a.png::b.zip",
           "data:image/png;base64,AAAA")  # fmt: skip
    people = pq.read_table(made / "identities.parquet")
    rows = people.to_pylist()
    for number, uri in enumerate(bad):
        row = {**rows[0], "identity_id": f"bad{number}", "photos": [{"uri": uri, "bytes": None}]}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=people.schema), made / "identities.parquet")
    run = tmp_path / "runs" / "all"
    code, said = invoke(
        capsys, monkeypatch, "benchmark", "--identities", str(made / "identities.parquet"),
        "--prompts", str(made / "prompts.parquet"), "--styles", str(made / "styles.parquet"),
        "--steps", "2", "--metrics", "face_found", "--output", str(run),
    )  # fmt: skip
    assert code == 0, said
    report = json.loads((run / "report" / "report.json").read_text())
    assert any("the photos of 'gus' do not agree" in note for note in report["run"]["notes"])
    rejects = pq.read_table(run / "rejects").to_pylist()
    assert sorted(row["key"] for row in rejects) == ["bad0", "bad1", "bad2", "bad3"]
    for row, uri in zip(sorted(rejects, key=lambda row: row["key"]), bad, strict=True):
        assert uri in row["message"]
    embedded = pq.read_table(run / "embeddings").to_pylist()
    faces = {row["identity_id"]: np.array(row["face"]) for row in embedded}
    assert set(faces) == set(PEOPLE)
    for name in ("turned_90", "turned_180", "turned_270", "exif_1", "exif_2", "exif_3", "no_end"):
        assert faces[name] @ faces["ben"] > 0.95, name
    styles = {"50% off", "a/b", "../../escape"}
    for form in ("parquet", "webdataset"):
        out = tmp_path / form
        code, said = invoke(
            capsys, monkeypatch, "export", str(run), "--output", str(out), "--format", form,
            "--partition", "style",
        )  # fmt: skip
        assert code == 0, said
    found = pa.dataset.dataset(tmp_path / "parquet", partitioning="hive").to_table()
    assert found.num_rows == len(PEOPLE) * 2 * 3
    assert set(found["style"].to_pylist()) == styles
    shards = sorted(map(str, (tmp_path / "webdataset").rglob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len(samples) == len(PEOPLE) * 2 * 3
    assert {json.loads(one["json"])["style"] for one in samples} == styles
    assert {path.name for path in tmp_path.iterdir()} == {
        "texts", "photos", "manifests", "runs", "parquet", "webdataset",
    }  # fmt: skip
