"""Manifests as other programs write them: each is read whole, or refused with its row."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.tables.manifest import kind_of, notes_of, read_manifest
from pipelines.tables.rows import parse_rows
from pipelines.tables.schemas import PROMPTS

BEACH = "a {subject} on the beach"
COLUMNS = frozenset(PROMPTS.names)


def _prompts(path: Path, data: bytes | str) -> list[tuple[str, str]]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    rows = read_manifest("prompts", str(path)).to_pylist()
    return [(row["prompt_id"], row["text"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "data", "texts"),
    [
        ("bom.csv", b"\xef\xbb\xbfprompt_id,text\r\na," + BEACH.encode() + b"\r\n", [BEACH]),
        ("semicolon.csv", f"prompt_id;text\na;{BEACH}\n", [BEACH]),
        ("tab.tsv", f"prompt_id\ttext\na\t{BEACH}, warm\n", [f"{BEACH}, warm"]),
        ("cr.csv", f"prompt_id,text\ra,{BEACH}\rb,two\r", [BEACH, "two"]),
        ("long.csv", 'prompt_id,text\na,"' + "word " * 30_000 + '"\n', ["word " * 30_000]),
        ("utf16.csv", ("\ufeff" + f"prompt_id;text\na;{BEACH}\n").encode("utf-16-le"), [BEACH]),
        ("empty_columns.csv", f"prompt_id,text,,\na,{BEACH},,\n,,,\n", [BEACH]),
        ("two_lines.csv", 'prompt_id,text\na,"one\ntwo"\n', ["one\ntwo"]),
        ("sep.csv", f"sep=;\r\nprompt_id;text\r\na;{BEACH}, warm\r\n", [f"{BEACH}, warm"]),
        ("sep_bom.csv", f'\ufeff"SEP=|"\nprompt_id|text\na|{BEACH}', [BEACH]),
        ("quote_inside.csv", 'prompt_id,text\na,a 5" lens\n', ['a 5" lens']),
        ("bom.jsonl", b'\xef\xbb\xbf{"prompt_id": "a", "text": "x"}\r\n', ["x"]),
        ("separators.jsonl", '{"prompt_id":"a","text":"x\u2028y\u0085z"}\n', ["x\u2028y\u0085z"]),
        ("bom.yaml", b"\xef\xbb\xbf- {prompt_id: a, text: x}\n", ["x"]),
    ],
)
def test_files_of_other_programs_are_read_whole(tmp_path, name, data, texts):
    assert [text for _, text in _prompts(tmp_path / name, data)] == texts


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "open_quote.csv",
            'prompt_id,text\nz,fine\na,"a {subject}\nb,second\nc,third\n',
            r"row 1 \(line 3\): a quote \(\"\) opens and is never closed",
        ),
        (
            "quote_in_quotes.csv",
            'prompt_id,text\na,"a "fine" day"\n',
            r"row 0 \(line 2\): a quoted cell ends before",
        ),
        (
            "surplus.csv",
            "prompt_id,text\na,a {subject}, on the beach\n",
            r"row 0 \(line 2\): has 3 cells for 2 columns, a cell with ',' in it must stand in quo",
        ),
        ("twice.csv", "prompt_id,text,text\na,b,c\n", r"header: the column 'text' stands twice"),
        ("no_name.csv", "prompt_id,,text\na,b,c\n", r"header: column 1 has no name$"),
        (
            "index.csv",
            ",prompt_id,text\n0,a,b\n",
            r"header: column 0 has no name, as pandas writes its row numbers \(index=False",
        ),
        (
            "index_again.csv",
            "Unnamed: 0,prompt_id,text\n0,a,b\n",
            r"row 0 has the unknown column 'Unnamed: 0', as pandas writes its row numbers \(ind",
        ),
        ("sep_fault.csv", "sep=;\nprompt_id;text\na;b\nb;c;d\n", r"row 1 \(line 4\): has 3 cells"),
        ("latin.csv", b"prompt_id,text\na,caf\xe9\n", r"line 2: is not UTF-8 text"),
        (
            "second.jsonl",
            '{"prompt_id":"a","text":"b"}\n{"prompt_id":"b" "text":"c"}\n',
            r"row 1 \(line 2\) is no valid JSON: Expecting ',' delimiter, column 18",
        ),
        (
            "twice.jsonl",
            '{"prompt_id":"a","text":"b","text":"c"}\n',
            r"row 0 \(line 1\) is no valid JSON: the key 'text' stands twice",
        ),
        ("twice.yaml", "- prompt_id: a\n  text: b\n  text: c\n", r"the key 'text' stands twice"),
        ("spaces.csv", "prompt_id,text\na ,b\n", r"row 0, column 'prompt_id': value is 'a ', it "),
        (
            "break.csv",
            'prompt_id,text\nz,y\n"a\nb",c\n',
            r"row 1, .*'a\\nb', it has U\+000A, allow",
        ),
        (
            "tab.yaml",
            '- {prompt_id: "a\\tb", text: c}',
            r"row 0, .*'a\\tb', it has U\+0009, allowed",
        ),
        (
            "direction.jsonl",
            '{"prompt_id": "a\u202eb", "text": "c"}\n',
            r"row 0, column 'prompt_id': value is 'a\\u202eb', it has U\+202E, allowed: text wit",
        ),
        (
            "two_spellings.csv",
            "prompt_id,text\nzo\u00eb,b\nzoe\u0308,c\n",
            "rows 0 and 1, column 'prompt_id': 'zo\u00eb' stands twice",
        ),
    ],
)
def test_faults_are_told_with_their_row(tmp_path, name, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        _prompts(tmp_path / name, data)
    assert name in str(caught.value)


def test_row_numbers_that_pandas_kept_in_parquet_are_told(tmp_path):
    frame = pd.DataFrame({"prompt_id": ["a", "b", "c"], "text": [BEACH, "x", "y"]})
    # No range, which pandas would describe instead of writing a column.
    chosen = frame.set_axis([4, 1, 7])
    chosen.to_parquet(tmp_path / "kept.parquet")
    with pytest.raises(ValueError, match=r"the unknown column '__index_level_0__', as pandas writ"):
        read_manifest("prompts", str(tmp_path / "kept.parquet"))
    chosen.to_parquet(tmp_path / "without.parquet", index=False)
    frame.set_index("prompt_id").to_parquet(tmp_path / "named.parquet")
    for name, rows in (("without", 3), ("named", 3)):
        assert read_manifest("prompts", str(tmp_path / f"{name}.parquet")).num_rows == rows


def test_a_merge_key_of_yaml_is_no_double(tmp_path):
    text = "- &a {prompt_id: a, text: b}\n- {<<: *a, prompt_id: c}\n"
    assert _prompts(tmp_path / "p.yaml", text) == [("a", "b"), ("c", "b")]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1.5, float("nan")]), "double"),
        (pa.array([True, False]), "bool"),
        (pa.array([1, 2], pa.timestamp("us")), r"timestamp\[us\]"),
        (pa.array([1, 2]), "int64"),
    ],
)
def test_a_text_column_of_another_type_is_refused(tmp_path, column, kind):
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt_id": ["a", "b"], "text": column}), path)
    with pytest.raises(ValueError, match=f"column 'text': type is {kind}, allowed: string"):
        read_manifest("prompts", str(path))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([BEACH], pa.large_string()),
        pa.array([BEACH], pa.string_view()),
        pa.array([BEACH]).dictionary_encode(),
    ],
)
def test_every_kind_of_text_is_text(tmp_path, column):
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt_id": ["a"], "text": column}), path)
    assert read_manifest("prompts", str(path))["text"].to_pylist() == [BEACH]


def test_a_folder_as_spark_or_hive_writes_it(tmp_path):
    spark = tmp_path / "prompts.parquet"
    spark.mkdir()
    (spark / "_SUCCESS").touch()
    for number in range(2):
        table = pa.table({"prompt_id": [f"p{number}"], "text": [BEACH]})
        pq.write_table(table, spark / f"part-{number:05d}.parquet")
    assert read_manifest("prompts", str(spark))["prompt_id"].to_pylist() == ["p0", "p1"]
    hive = tmp_path / "hive"
    for scene in ("sea side", "town"):
        (hive / f"scene={scene}").mkdir(parents=True)
        table = pa.table({"prompt_id": [scene], "text": [BEACH]})
        pq.write_table(table, hive / f"scene={scene}" / "0.parquet")
    rows = read_manifest("prompts", str(hive)).to_pylist()
    assert [(row["prompt_id"], row["scene"]) for row in rows] == [
        ("sea side", "sea side"),
        ("town", "town"),
    ]


def test_a_folder_without_tables_is_told(tmp_path):
    with pytest.raises(ValueError, match="is a folder without Parquet files, allowed: a file"):
        read_manifest("prompts", str(tmp_path))


def _workbook(sheets: dict[str, list[list[str | float]]], tail: str = "") -> bytes:
    """A minimal .xlsx (ECMA-376), as a spreadsheet writes it.

    A cell that begins with "<c " is written as it is; `tail` follows the cells of each sheet.
    """

    def cell(value: str | float, row: int, column: int) -> str:
        name = f"{chr(65 + column)}{row}"
        if isinstance(value, str) and value.startswith("<c "):
            return value.replace("<c ", f'<c r="{name}" ', 1)
        if isinstance(value, str):
            return f'<c r="{name}" t="inlineStr"><is><t>{value}</t></is></c>' if value else ""
        return f'<c r="{name}"><v>{value}</v></c>'

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    types = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = range(1, len(sheets) + 1)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        overrides = "".join(
            f'<Override PartName="/xl/worksheets/sheet{n}.xml" '
            f'ContentType="{types}.worksheet+xml"/>'
            for n in parts
        )
        book.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
            f'"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName='
            f'"/xl/workbook.xml" ContentType="{types}.sheet.main+xml"/>{overrides}</Types>',
        )
        book.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r" '
            f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        listed = "".join(
            f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>'
            for n, name in zip(parts, sheets, strict=True)
        )
        book.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{listed}</sheets></workbook>',
        )
        related = "".join(
            f'<Relationship Id="r{n}" Type="{office}/worksheet" Target="worksheets/sheet{n}.xml"/>'
            for n in parts
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}/relationships">{related}</Relationships>',
        )
        for n, rows in zip(parts, sheets.values(), strict=True):
            body = "".join(
                f'<row r="{r}">{"".join(cell(v, r, c) for c, v in enumerate(values))}</row>'
                for r, values in enumerate(rows, 1)
            )
            book.writestr(
                f"xl/worksheets/sheet{n}.xml",
                f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData>{tail}</worksheet>',
            )
    return buffer.getvalue()


def test_an_excel_workbook_is_read(tmp_path):
    rows = [["identity_id", "photos", "face_index"], ["ada", "a.png;b.png", 2], ["bo", "c.png", ""]]
    path = tmp_path / "people.xlsx"
    path.write_bytes(_workbook({"people": rows, "notes": []}))
    people = read_manifest("identities", str(path)).to_pylist()
    assert [(p["identity_id"], len(p["photos"]), p["face_index"]) for p in people] == [
        ("ada", 2, 2),
        ("bo", 1, None),
    ]


def test_an_excel_workbook_of_two_filled_sheets_is_refused(tmp_path):
    path = tmp_path / "p.xlsx"
    path.write_bytes(_workbook({"one": [["prompt_id", "text"]], "two": [["x"]]}))
    with pytest.raises(ValueError, match="has the sheets 'one', 'two', allowed: one with cells"):
        read_manifest("prompts", str(path))


@pytest.mark.parametrize(
    ("cell", "tail", "said"),
    [
        ('<c t="e"><v>#N/A</v></c>', "", r"cell C2 is the error #N/A, allowed: a value"),
        ("<c ><f>A1</f><v/></c>", "", r"cell C2 is a formula that was not computed"),
        (
            "",
            '<mergeCells><mergeCell ref="C1:C2"/></mergeCells>',
            "cells C1:C2 of xl/worksheets/.* are merged",
        ),
    ],
)
def test_a_cell_of_excel_that_would_be_lost_is_refused(tmp_path, cell, tail, said):
    """The reader takes each for an empty cell, and the column may be empty."""
    path = tmp_path / "p.xlsx"
    rows = [["prompt_id", "text", "scene"], ["a", "{subject}", cell]]
    path.write_bytes(_workbook({"one": rows}, tail))
    with pytest.raises(ValueError, match=said):
        read_manifest("prompts", str(path))


def test_cells_merged_beside_the_table_lose_nothing(tmp_path):
    path = tmp_path / "p.xlsx"
    rows = [["prompt_id", "text"], ["a", "{subject}"]]
    path.write_bytes(
        _workbook({"one": rows}, '<mergeCells><mergeCell ref="H10:I10"/></mergeCells>')
    )
    assert read_manifest("prompts", str(path))["prompt_id"].to_pylist() == ["a"]


def test_a_formula_of_excel_counts_as_its_value(tmp_path):
    path = tmp_path / "p.xlsx"
    cells = ['<c t="str"><f>A1</f><v>beach</v></c>', '<c t="str"><f>A1</f><v></v></c>']
    rows = [
        ["prompt_id", "text", "scene"],
        *(["ab"[n], "{subject}", c] for n, c in enumerate(cells)),
    ]
    path.write_bytes(_workbook({"one": rows}))
    assert read_manifest("prompts", str(path))["scene"].to_pylist() == ["beach", None]


def test_empty_lines_before_the_header_are_passed_over(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("\n;\nprompt_id;text\na;{subject}, here\n")
    assert read_manifest("prompts", str(path))["text"].to_pylist() == ["{subject}, here"]


def test_a_name_that_begins_with_a_tilde_is_relative_to_the_manifest(tmp_path):
    path = tmp_path / "i.csv"
    path.write_text("identity_id,photos\na,~anna.png;~/b.png\n")
    (row,) = read_manifest("identities", str(path)).to_pylist()
    assert [photo["uri"] for photo in row["photos"]] == [f"{tmp_path}/~anna.png", "~/b.png"]


def test_a_number_in_a_text_cell_of_excel_is_refused(tmp_path):
    path = tmp_path / "p.xlsx"
    path.write_bytes(_workbook({"one": [["prompt_id", "text"], ["a", 7]]}))
    with pytest.raises(ValueError, match="row 0, column 'text': value is 7, allowed: text"):
        read_manifest("prompts", str(path))


@pytest.mark.parametrize("value", ["-1", "1.7", "true", '"x"', "1e400", "2147483648"])
def test_a_face_that_cannot_be_counted_is_refused(tmp_path, value):
    path = tmp_path / "i.jsonl"
    path.write_text(f'{{"identity_id":"a","photos":["x.png"],"face_index":{value}}}\n')
    with pytest.raises(ValueError, match=r"column 'face_index': value is .* allowed: a whole numb"):
        read_manifest("identities", str(path))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.7]), "column 'face_index': type is double"),
        (pa.array([True]), "column 'face_index': type is bool"),
        (pa.array([-1]), "row 0, column 'face_index': value is -1, allowed: 0 or more"),
    ],
)
def test_such_a_face_of_a_parquet_file_too(tmp_path, column, message):
    path = tmp_path / "i.parquet"
    pq.write_table(
        pa.table({"identity_id": ["a"], "photos": [["x.png"]], "face_index": column}), path
    )
    with pytest.raises(ValueError, match=message):
        read_manifest("identities", str(path))


IMAGE = {"bytes": None, "path": "one.png"}


@pytest.mark.parametrize(
    "photos",
    [
        pa.array([[IMAGE]]),
        pa.array([IMAGE]),
        pa.array([["one.png"]]),
        pa.array([["one.png"]], pa.large_list(pa.string())),
        pa.array([["one.png"]], pa.list_(pa.string(), 1)),
        pa.array(["one.png"]),
        pa.array([[{"uri": "one.png"}]]),
    ],
)
def test_photos_of_a_hub_or_a_list_are_read(tmp_path, photos):
    path = tmp_path / "i.parquet"
    pq.write_table(pa.table({"identity_id": ["a"], "photos": photos}), path)
    row = read_manifest("identities", str(path)).to_pylist()[0]
    assert row["photos"] == [{"uri": f"{tmp_path}/one.png", "bytes": None}]


def test_tables_of_the_datasets_library_are_read(tmp_path):
    hub = pytest.importorskip("datasets")
    text, image = hub.Value("string"), hub.Image()
    picture = Image.new("RGB", (9, 9))
    picture.save(tmp_path / "one.png")
    columns = {
        "in_memory": ([picture], image),
        "of_a_file": ([f"{tmp_path}/one.png"], image),
        "undecoded": ([f"{tmp_path}/one.png"], hub.Image(decode=False)),
        "several": ([[picture, picture]], hub.List(image)),
        "names": ([["one.png"]], hub.Sequence(text)),
        "name": (["one.png"], hub.Value("large_string")),
    }
    photos = {}
    for name, (values, kind) in columns.items():
        data = {"identity_id": ["a"], "photos": values, "face_index": [0]}
        kinds = {"identity_id": text, "photos": kind, "face_index": hub.Value("int64")}
        path = tmp_path / f"{name}.parquet"
        hub.Dataset.from_dict(data, hub.Features(kinds)).to_parquet(path)
        (row,) = read_manifest("identities", str(path)).to_pylist()
        photos[name] = [(photo["uri"], bool(photo["bytes"])) for photo in row["photos"]]
    file = (f"{tmp_path}/one.png", False)
    assert photos == {
        "in_memory": [(None, True)],
        "of_a_file": [file],
        "undecoded": [file],
        "several": [(None, True), (None, True)],
        "names": [file],
        "name": [file],
    }


@pytest.mark.parametrize(
    "cell", ["['a.png', 'b.png']", '["a.png"]', "{'bytes': None, 'path': 'a.png'}", "[{'uri': 1}]"]
)
def test_a_list_that_became_text_in_a_csv_is_refused(tmp_path, cell):
    """As pandas and datasets write such columns."""
    path = tmp_path / "i.csv"
    pd.DataFrame({"identity_id": ["a"], "photos": [cell]}).to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"row 0, column 'photos': value is .* allowed in one cell"
    ):
        read_manifest("identities", str(path))


def test_bytes_beside_a_name_stay_what_they_are(tmp_path):
    path = tmp_path / "i.parquet"
    photos = pa.array([[{"bytes": b"png", "path": "one.png"}, {"bytes": b"x", "path": None}]])
    pq.write_table(pa.table({"identity_id": ["a"], "photos": photos}), path)
    assert read_manifest("identities", str(path)).to_pylist()[0]["photos"] == [
        {"uri": "one.png", "bytes": b"png"},
        {"uri": None, "bytes": b"x"},
    ]


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        (pa.array([[{"path": "x", "width": 3}]]), "the unknown field 'width', allowed: uri, path"),
        (pa.array([[{"path": None, "bytes": None}]], pa.list_(pa.struct(
            [("path", pa.string()), ("bytes", pa.binary())]))), "neither uri nor bytes"),
        (pa.array([[""]]), "neither uri nor bytes"),
        (pa.array([[7]]), "a photo is int64, allowed"),
        (pa.array([7]), "type is int64, allowed"),
        (pa.array([None], pa.list_(pa.string())), "row 0, column 'photos': value is null"),
    ],
)  # fmt: skip
def test_other_photos_are_refused(tmp_path, photos, message):
    path = tmp_path / "i.parquet"
    pq.write_table(pa.table({"identity_id": ["a"], "photos": photos}), path)
    with pytest.raises(ValueError, match=message):
        read_manifest("identities", str(path))


def test_base64_in_json_is_the_photo(tmp_path):
    path = tmp_path / "i.json"
    path.write_text('[{"identity_id": "a", "photos": [{"bytes": "cG5n"}]}]')
    assert read_manifest("identities", str(path)).to_pylist()[0]["photos"][0]["bytes"] == b"png"
    path.write_text('[{"identity_id": "a", "photos": [{"bytes": "no base64!"}]}]')
    with pytest.raises(ValueError, match="row 0, column 'photos': the text of 'bytes' is no base"):
        read_manifest("identities", str(path))


def test_relative_addresses_are_relative_to_the_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "i.csv").write_text(
        'identity_id,photos\na,"./x/1.png;/abs/2.png;s3://b/3.png;data:image/png;base64,AA"\n'
    )
    photos = read_manifest("identities", str(tmp_path / "i.csv"))["photos"].to_pylist()[0]
    assert [photo["uri"] for photo in photos] == [
        f"{tmp_path}/x/1.png",
        "/abs/2.png",
        "s3://b/3.png",
        "data:image/png;base64,AA",
    ]


@pytest.mark.parametrize("address", ["", "  "])
def test_an_empty_address_is_an_error(address):
    with pytest.raises(ValueError, match=r"identities manifest is '.*', allowed: a file or a fold"):
        read_manifest("identities", address)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("identity_id,photos\na,b.png\n", "identities"),
        (f"prompt_id,text\na,{BEACH}\n", "prompts"),
        ("style,suffix\na,b\n", "styles"),
        ("mix_id,parts,mode\nm,a:.5;b:.5,interpolate\n", "mixes"),
    ],
)
def test_the_columns_tell_the_kind_whatever_the_name(tmp_path, text, kind):
    path = tmp_path / "prompts_and_styles.csv"
    path.write_text(text)
    found, table = kind_of(str(path))
    assert (found, table.num_rows) == (kind, 1)


def test_columns_of_no_kind_are_told(tmp_path):
    (tmp_path / "prompts.csv").write_text("id,words\na,b\n")
    with pytest.raises(ValueError, match=r"has the columns id, words, allowed: .*or name its kind"):
        kind_of(str(tmp_path / "prompts.csv"))


def test_prompts_without_the_person_are_told():
    table = pa.table({"prompt_id": ["a", "b", "c"], "text": ["x", BEACH, "y"]})
    (line,) = notes_of("prompts", table)
    assert line.startswith("2 of 3 prompts have no {subject}, the first is 'a'")


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(CELLS, min_size=1, max_size=6), st.sampled_from([",", ";", "\t"]))
def test_any_text_survives_every_form(texts, separator):
    """Given = read, in this order, whatever is in a cell."""
    import csv

    import yaml

    rows = [{"prompt_id": str(n), "text": text} for n, text in enumerate(texts)]
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, ["prompt_id", "text"], delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    forms = {
        ".csv": written.getvalue(),
        ".jsonl": lines,
        ".yaml": yaml.safe_dump(rows, allow_unicode=False),
    }
    for suffix, text in forms.items():
        assert parse_rows(suffix, text.encode(), COLUMNS, "file") == rows


@given(st.binary(max_size=200), st.sampled_from([".csv", ".jsonl", ".json", ".yaml", ".xlsx"]))
def test_any_bytes_are_rows_or_a_sentence(data, suffix):
    said = "file"
    try:
        assert isinstance(parse_rows(suffix, data, COLUMNS, "file"), list)
    except ValueError as error:
        said = str(error)
    assert said.startswith("file")
