"""Manifests: every form is read, every fault is named with its row and column."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.tables.choices import parse_seeds
from pipelines.tables.manifest import (
    default_prompts,
    default_styles,
    read_manifest,
    write_manifests,
)
from pipelines.tables.schemas import IDENTITIES, PROMPTS, version_of
from pipelines.tables.table_checks import check_table


def _photo(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_a_file_and_a_sub_folder_are_a_person_each(tmp_path):
    for name in ("ada.png", "grace/1.jpg", "grace/2.jpg", "notes.txt"):
        _photo(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    table = read_manifest("identities", str(tmp_path))
    assert {row["identity_id"]: len(row["photos"]) for row in table.to_pylist()} == {
        "ada": 1,
        "grace": 2,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "prompt_id,text,scene\none,a {subject},beach\ntwo,two,\n"),
        (
            "p.yaml",
            "- {prompt_id: one, text: 'a {subject}', scene: beach}\n- {prompt_id: two, text: two}",
        ),
        (
            "p.jsonl",
            '{"prompt_id": "one", "text": "a {subject}", "scene": "beach"}\n'
            '{"prompt_id": "two", "text": "two"}\n',
        ),
    ],
)
def test_text_forms_give_the_same_table(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_manifest("prompts", str(tmp_path / name))
    nothing = dict.fromkeys(PROMPTS.names[3:])
    assert table.to_pylist() == [
        {"prompt_id": "one", "text": "a {subject}", "scene": "beach", **nothing},
        {"prompt_id": "two", "text": "two", "scene": None, **nothing},
    ]
    assert version_of(table.schema) == ("prompts", 1)


def test_short_forms_of_photos_and_mixes(tmp_path):
    (tmp_path / "i.csv").write_text("identity_id,photos\nada,a.png;b.png\n")
    photos = read_manifest("identities", str(tmp_path / "i.csv"))["photos"].to_pylist()[0]
    assert [photo["uri"] for photo in photos] == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]
    (tmp_path / "m.yaml").write_text(
        "- {mix_id: m, mode: interpolate, parts: {ada: 0.25, bo: 0.75}}"
    )
    parts = read_manifest("mixes", str(tmp_path / "m.yaml"))["parts"].to_pylist()[0]
    assert parts == [
        {"identity_id": "ada", "weight": 0.25},
        {"identity_id": "bo", "weight": 0.75},
    ]


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        (
            "prompts",
            "p.csv",
            "prompt_id,txt\na,b\n",
            r"row 0 has the unknown column 'txt', allowed",
        ),
        ("prompts", "p.csv", "prompt_id\na\n", r"row 0, column 'text': value is null"),
        (
            "prompts",
            "p.yaml",
            "- {prompt_id: a, text: ' '}",
            r"row 0, column 'text': value is empty",
        ),
        (
            "prompts",
            "p.yaml",
            "- {prompt_id: a, text: 3}",
            r"column 'text': value is 3, allowed: text",
        ),
        ("prompts", "p.yaml", "[a]", r"row 0: is str, allowed: a mapping"),
        ("prompts", "p.yaml", "[", r"is no valid yaml"),
        ("prompts", "p.jsonl", "{", r"row 0 \(line 1\) is no valid JSON: .*column 2"),
        ("prompts", "p.csv", "prompt_id,text\n", r"has 0 rows, allowed: 1 or more prompts"),
        (
            "prompts",
            "p.csv",
            "prompt_id,text\na,b\na,c\n",
            r"rows 0 and 1, column 'prompt_id': 'a'",
        ),
        ("prompts", "p.xlsx", "", r"is no valid Excel workbook"),
        ("prompts", "p.docx", "", r"ends in '.docx', allowed: .parquet"),
        (
            "identities",
            "i.yaml",
            "- {identity_id: a, photos: []}",
            r"row 0, column 'photos': is empty",
        ),
        ("identities", "i.yaml", "- {identity_id: a, photos: [{}]}", r"neither uri nor bytes"),
        (
            "identities",
            "i.yaml",
            "- {identity_id: a, photos: [x], face_index: left}",
            r"column 'face_index': value is 'left', allowed: a whole number",
        ),
        (
            "mixes",
            "m.yaml",
            "- {mix_id: m, mode: interpolate, parts: {a: 1, b: 1}}",
            r"row 0, column 'parts': weights sum to 2, allowed: 1",
        ),
        ("mixes", "m.yaml", "- {mix_id: m, mode: blend, parts: {a: 1, b: 0}}", r"value is 'blend'"),
    ],
)
def test_faults_are_named(tmp_path, kind, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(kind, str(tmp_path / name))


def test_missing_places_are_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_manifest("prompts", str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match="does not exist"):
        read_manifest("identities", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="holds no photo"):
        read_manifest("identities", str(tmp_path))


def test_a_later_schema_version_is_refused():
    later = PROMPTS.with_metadata({**PROMPTS.metadata, b"infinite_id.version": b"2"})
    table = pa.Table.from_pylist([{"prompt_id": "a", "text": "b"}], schema=later)
    with pytest.raises(ValueError, match="version 2, this program reads 'prompts' up to version 1"):
        check_table(table, PROMPTS, "x.parquet")


def test_build_writes_what_read_reads(tmp_path):
    _photo(tmp_path / "photos" / "ada.png")
    output = tmp_path / "out"
    names = write_manifests(
        str(output),
        identities=read_manifest("identities", str(tmp_path / "photos")),
        prompts=default_prompts(),
        styles=default_styles(),
    )
    table = read_manifest("identities", str(output / "identities.parquet"))
    assert table["identity_id"].to_pylist() == ["ada"]
    assert pq.read_schema(output / "identities.parquet").equals(IDENTITIES)
    kinds = ("identities", "prompts", "styles", "mixes", "groups")
    assert names == [f"{kind}.parquet" for kind in kinds]
    assert sorted(path.name for path in output.iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0:4", [0, 1, 2, 3]), ("7", [7]), ("0,3,9", [0, 3, 9]), (":2", [0, 1])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "4:0", "-1", "1,1", "3:", str(2**63)])
def test_bad_seeds(text):
    with pytest.raises(ValueError, match="seeds are"):
        parse_seeds(text)
