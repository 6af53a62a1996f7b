"""A folder of photos is accounted for: each entry is somebody's photo or is left out, and why."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.cli import app
from pipelines.tables.manifest import read_manifest
from pipelines.tables.photo_folder import PHOTO_SUFFIXES, FolderAccount, people_of_folder
from pipelines.tables.storage import Store


def _put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def _people(root: Path, layout: str = "person") -> dict[str, list[str]]:
    table, _ = people_of_folder(Store(root), str(root), layout)
    return {
        row["identity_id"]: [os.path.relpath(photo["uri"], root) for photo in row["photos"]]
        for row in table.to_pylist()
    }


def _account(root: Path, layout: str = "person") -> FolderAccount:
    return people_of_folder(Store(root), str(root), layout)[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As phones, archives and file managers leave it."""
    root = tmp_path / "photos"
    _put(
        root,
        "anna/1.jpg", "anna/2.avif", "ben/2020/1.heic", "train/cleo/1.jpg", "dora.jfif",
        "emil.GIF", "fay.jpg", "fay.png", "._fay.jpg", "__MACOSX/x.png",
        ".ipynb_checkpoints/y.png", "@eaDir/z.jpg", "gus/Thumbs.db", "notes.txt",
    )  # fmt: skip
    (root / "hugo").mkdir()
    (root / "linked").symlink_to(root / "anna", target_is_directory=True)
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "anna" / "loop").symlink_to(root, target_is_directory=True)
    return root


def test_everybody_is_found(folder):
    assert _people(folder) == {
        "anna": ["anna/1.jpg", "anna/2.avif"],
        "ben": ["ben/2020/1.heic"],
        "cleo": ["train/cleo/1.jpg"],
        "dora": ["dora.jfif"],
        "emil": ["emil.GIF"],
        "fay": ["fay.jpg", "fay.png"],
        "linked": ["linked/1.jpg", "linked/2.avif"],
    }


def test_everything_else_is_told(folder):
    account = _account(folder)
    assert dict(account.left_out) == {
        "._fay.jpg": "hidden",
        ".ipynb_checkpoints": "hidden",
        "__MACOSX": "left by an operating system or archive",
        "@eaDir": "left by an operating system or archive",
        "gus/Thumbs.db": "left by an operating system or archive",
        "notes.txt": "its name does not end as a photo's",
        "hugo/": "an empty folder",
        "gone.jpg": "a link that leads nowhere",
        "anna/loop": "a link to a folder that holds it",
        "linked/loop": "a link to a folder that holds it",
    }
    assert (account.given, account.photos, account.people) == (20, 10, 7)
    assert account.told == (
        "train/ is taken as a part of the set: its folders are people",
        "person 'fay' is put together from fay.jpg, fay.png",
    )


def test_build_prints_the_account_and_the_manifest_keeps_it(folder, tmp_path):
    output = tmp_path / "manifests"
    done = CliRunner().invoke(
        app, ["manifest", "build", "--photos", str(folder), "--output", str(output)]
    )
    assert done.exit_code == 0, done.output
    assert "20 entries: 10 photos of 7 people, 10 left out" in done.output
    assert "left out, hidden: ._fay.jpg, .ipynb_checkpoints" in done.output
    assert "person 'fay' is put together from fay.jpg, fay.png" in done.output
    kept = FolderAccount.of(pq.read_schema(output / "identities.parquet"))
    assert kept == _account(folder)
    assert FolderAccount.of(read_manifest("identities", str(output / "identities.parquet")).schema)
    rows = (output / "left_out.csv").read_text().splitlines()
    assert len(rows) == 11
    assert rows[0] == "entry,reason"


def test_a_name_in_two_spellings_is_one_person(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "zoë") for form in ("NFC", "NFD"))
    _put(tmp_path, f"{nfc}/1.jpg", f"{nfd}/2.jpg")
    assert list(_people(tmp_path)) == [nfc]
    (line,) = _account(tmp_path).told
    assert line == f"person {nfc!r} is put together from {nfd}/, {nfc}/"


def test_a_file_and_a_folder_of_one_name_are_told(tmp_path):
    _put(tmp_path, "bob.jpg", "bob/1.jpg")
    assert list(_people(tmp_path)) == ["bob"]
    assert _account(tmp_path).told == ("person 'bob' is put together from bob.jpg, bob/",)


def test_a_name_that_is_not_utf8_stops_nothing(tmp_path):
    _put(tmp_path, "anna.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    assert list(_people(tmp_path)) == ["anna"]
    assert _account(tmp_path).left_out == (("caf\ufffd.jpg", "its name is not UTF-8, rename it"),)


def test_spaces_at_the_ends_of_a_name_are_told(tmp_path):
    _put(tmp_path, "anna /1.jpg")
    assert list(_people(tmp_path)) == ["anna"]
    assert _account(tmp_path).told == ("'anna /' is person 'anna', without the spaces at its ends",)


def test_a_name_with_an_invisible_character_is_left_out_and_told(tmp_path):
    _put(tmp_path, "anna.jpg", "bo\u202e/1.jpg", "cy\nd.jpg", "eve/1\u200e.jpg")
    assert list(_people(tmp_path)) == ["anna", "eve"]
    account = _account(tmp_path)
    assert account.left_out == (
        ("bo\u202e/1.jpg", "no name for a person: it has U+202E, rename it"),
        ("cy\nd.jpg", "no name for a person: it has U+000A, rename it"),
    )
    assert (account.given, account.photos) == (4, 2)
    assert (
        "left out, no name for a person: it has U+000A, rename it: 'cy\\nd.jpg'" in account.lines()
    )


@pytest.mark.parametrize(
    ("layout", "names", "people"),
    [
        ("person", ["Ann_Lee/Ann_Lee_0001.jpg", "Bo/Bo_0001.jpg"], ["Ann_Lee", "Bo"]),
        ("person", ["train/a/1.jpg", "val/a/2.jpg", "val/b/1.jpg"], ["a", "b"]),
        ("person", ["Val/1.jpg", "Val/old/2.jpg"], ["Val"]),
        ("nested", ["site/2020/ann/1.jpg", "site/bo/1.jpg", "cy.jpg"], ["ann", "bo", "cy"]),
        ("file", ["00/00.png", "00/01.png", "a.png"], ["00/00", "00/01", "a"]),
    ],
)  # fmt: skip
def test_layouts(tmp_path, layout, names, people):
    _put(tmp_path, *names)
    found = _people(tmp_path, layout)
    assert sorted(found) == people
    assert sorted(photo for photos in found.values() for photo in photos) == sorted(names)


def test_an_unknown_layout(tmp_path):
    with pytest.raises(ValueError, match="layout is 'flat', allowed: person, nested, file"):
        _people(tmp_path, "flat")


def test_a_folder_without_photos_tells_what_it_holds(tmp_path):
    _put(tmp_path, "raw/1.cr2")
    with pytest.raises(ValueError, match=r"holds no photo, allowed: .*its name does not end as a"):
        read_manifest("identities", str(tmp_path))


def test_one_photo_is_one_person(tmp_path):
    _put(tmp_path, "me.JPG")
    (row,) = read_manifest("identities", str(tmp_path / "me.JPG")).to_pylist()
    assert (row["identity_id"], row["photos"][0]["uri"]) == ("me", f"{tmp_path}/me.JPG")


def test_a_store_without_links_gives_the_same_account():
    store = Store("memory://folder-account")
    for name in ("anna/1.jpg", ".trash/2.jpg", "notes.txt"):
        store.write_bytes(name, b"x")
    table, account = people_of_folder(store, "memory://folder-account")
    uris = [photo["uri"] for photo in table["photos"].to_pylist()[0]]
    assert uris == ["memory://folder-account/anna/1.jpg"]
    assert dict(account.left_out) == {
        ".trash/2.jpg": "hidden",
        "notes.txt": "its name does not end as a photo's",
    }


NAMES = st.one_of(
    st.sampled_from(["a", "b", "train", "é", "e\u0301", " a", "a ", ".x", "__MACOSX", "@eaDir"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1,
            max_size=6).filter(lambda name: name not in (".", "..")),
)  # fmt: skip
ENDINGS = st.sampled_from([*PHOTO_SUFFIXES, ".JPG", ".txt", ""])
FILES = st.lists(st.tuples(st.lists(NAMES, max_size=3), NAMES, ENDINGS), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(FILES, st.sampled_from(["person", "nested", "file"]))
def test_accepted_and_left_out_are_what_was_given_and_none_twice(files, layout):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        _put(root, "somebody.png")
        for folders, name, ending in files:
            path = root.joinpath(*folders, name + ending)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
            except OSError:
                continue  # a file stands where a folder would, or the other way round
        given_files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        table, account = people_of_folder(Store(root), str(root), layout)
        taken = Counter(
            os.path.relpath(photo["uri"], root)
            for photos in table["photos"].to_pylist()
            for photo in photos
        )
        left = [name for name, _ in account.left_out]
        covered = {
            name
            for name in given_files
            if name in left or any(name.startswith(f"{entry}/") for entry in left)
        }
        assert set(taken) | covered == given_files
        assert not set(taken) & covered
        assert max(taken.values()) == 1
        assert account.photos == len(taken)
        assert account.given == len(taken) + len(left)
        assert sorted(table["identity_id"].to_pylist()) == table["identity_id"].to_pylist()
