"""A folder of photos as people, with an account: each entry is a photo of somebody or is left out.

Layouts say who is in a photo:

- person: a file at the top is a person; a folder at the top is a person, with every photo below it
  (LFW: ``Name/Name_0001.jpg``; also ``Name/2020/1.jpg``). A folder named train, test, val ... that
  holds folders alone is passed through: ``train/Name/1.jpg`` is Name.
- nested: the folder that a photo lies in is its person, however deep: ``site/2020/Name/1.jpg``.
- file: each file is a person of its own, however deep (FFHQ: ``00000/00012.png``).
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from eval.places import guarding
from infinite_id.names import name_fault
from pipelines.tables.choices import LAYOUTS
from pipelines.tables.schemas import IDENTITIES
from pipelines.tables.storage import Store
from pipelines.tables.table_checks import check_table

__all__ = ["PHOTO_SUFFIXES", "FolderAccount", "people_of_folder"]

PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff",
    ".gif", ".avif", ".heic", ".heif", ".hif",
)  # fmt: skip
"""Endings of photos; what is inside decides how a photo is read."""

_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")
_OF_SYSTEMS = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
    "thumbs.db", "desktop.ini", "__pycache__",
}  # fmt: skip
_KEY = b"infinite_id.photo_folder"
_MOST_NAMES = 1000
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class FolderAccount:
    """What became of the entries of a folder.

    Attributes:
        layout: of `LAYOUTS`.
        photos, people: taken.
        counts: reason -> entries left out.
        left_out: (entry, reason) pairs; a manifest keeps the first 1,000.
        told: sentences on what was merged, renamed or passed through.
    """

    layout: str
    photos: int
    people: int
    counts: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()
    told: tuple[str, ...] = ()

    @property
    def given(self) -> int:
        """Entries of the folder: photos and what is left out."""
        return self.photos + sum(self.counts.values())

    def lines(self) -> list[str]:
        """The account in sentences, the most frequent reason first."""
        out = sum(self.counts.values())
        lines = [
            f"{self.given} entries: {self.photos} photos of {self.people} people, {out} left out"
        ]
        for reason, count in sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0])):
            names = [_shown(name) for name, why in self.left_out if why == reason][:_SHOWN]
            more = f" and {count - len(names)} more" if count > len(names) else ""
            lines.append(f"left out, {reason}: {', '.join(names)}{more}")
        return [*lines, *self.told]

    def kept_in(self, table: pa.Table) -> pa.Table:
        """`table` with this account in its metadata."""
        values = {
            "layout": self.layout,
            "photos": self.photos,
            "people": self.people,
            "counts": dict(self.counts),
            "left_out": self.left_out[:_MOST_NAMES],
            "told": self.told[:_MOST_NAMES],
        }
        text = json.dumps(values, ensure_ascii=False).encode()
        return table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: text})

    @staticmethod
    def of(schema: pa.Schema) -> FolderAccount | None:
        """The account that a manifest carries; None where it was not made from a folder."""
        text = (schema.metadata or {}).get(_KEY)
        if text is None:
            return None
        values = json.loads(text)
        values["left_out"] = tuple((name, why) for name, why in values["left_out"])
        return FolderAccount(**{**values, "told": tuple(values["told"])})


def people_of_folder(
    store: Store, address: str, layout: str = "person"
) -> tuple[pa.Table, FolderAccount]:
    """An identities table of the photos below a folder, and its account.

    Keys are Unicode NFC, so that one name in two spellings is one person. Links are followed.

    Raises:
        ValueError: unknown layout, or no photo; the message tells what was left out.
        StorageError: the folder cannot be listed.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, allowed: {', '.join(LAYOUTS)}")
    photos: list[str] = []
    left_out: list[tuple[str, str]] = []
    with guarding("list", address):
        entries = list(_walk(store.root) if store.is_local else _listed(store))
    for name, reason in entries:
        if reason is None:
            photos.append(name)
        else:
            left_out.append((name, reason))
    people, told, unnamed = _people(photos, layout)
    left_out.extend(unnamed)
    account = FolderAccount(
        layout,
        len(photos) - len(unnamed),
        len(people),
        dict(Counter(reason for _, reason in left_out)),
        tuple(sorted(left_out)),
        tuple(told),
    )
    if not people:
        detail = f" ({'; '.join(account.lines()[1:])})" if left_out else ""
        raise ValueError(
            f"photos folder {address} holds no photo, allowed: files that end in "
            f"{', '.join(PHOTO_SUFFIXES)}{detail}"
        )
    base = store.root if store.is_local else store.address
    rows: list[dict[str, Any]] = [
        {
            "identity_id": person,
            "photos": [{"uri": f"{base}/{name}", "bytes": None} for name in people[person]],
        }
        for person in sorted(people)
    ]
    table = check_table(pa.Table.from_pylist(rows), IDENTITIES, address)
    return account.kept_in(table), account


def _people(
    photos: Iterable[str], layout: str
) -> tuple[dict[str, list[str]], list[str], list[tuple[str, str]]]:
    """person -> photos, what is to be told, and (photo, why nobody can have its name)."""
    paths = [PurePosixPath(name) for name in sorted(photos)]
    with_photos = {path.parts[0] for path in paths if len(path.parts) == 2}
    passed = {
        path.parts[0] for path in paths if len(path.parts) > 2 and path.parts[0].lower() in _SPLITS
    } - with_photos
    people: dict[str, list[str]] = {}
    sources: dict[str, dict[str, None]] = {}
    told: dict[str, None] = {}
    unnamed: list[tuple[str, str]] = []
    if layout == "person":
        told.update({f"{name}/ is taken as a part of the set: its folders are people": None
                     for name in sorted(passed)})  # fmt: skip
    for path in paths:
        source = _source(path, layout, passed)
        name = source.rstrip("/")
        if layout != "file":
            name = name.rpartition("/")[2]
        if not source.endswith("/"):
            name = name[: -len(path.suffix)]
        person = unicodedata.normalize("NFC", name.strip())
        if fault := name_fault(person):
            unnamed.append((str(path), f"no name for a person: {fault}, rename it"))
            continue
        if name != name.strip():
            told[f"{source!r} is person {person!r}, without the spaces at its ends"] = None
        people.setdefault(person, []).append(str(path))
        sources.setdefault(person, {})[source] = None
    for person, places in sources.items():
        if len(places) > 1:
            shown = ", ".join(map(_shown, places))
            told[f"person {person!r} is put together from {shown}"] = None
    return people, list(told), unnamed


def _shown(entry: str) -> str:
    """An entry as a line of text can show it."""
    return entry if name_fault(entry) is None else repr(entry)


def _source(path: PurePosixPath, layout: str, passed: set[str]) -> str:
    """What names the person: a file, or a folder with a slash at its end."""
    parts = path.parts
    if layout == "file" or len(parts) == 1:
        return str(path)
    if layout == "nested":
        return f"{path.parent}/"
    if parts[0] in passed:
        return f"{parts[0]}/{parts[1]}/"
    return f"{parts[0]}/"


def _walk(root: str) -> Iterator[tuple[str, str | None]]:
    """(path below root, why it is left out or None for a photo); links are followed."""

    def below(folder: str, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, str | None]]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield prefix, f"cannot be listed ({error.strerror})"
            return
        if not entries and prefix:
            yield prefix, "an empty folder"
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if not _is_text(name):
                shown = os.fsencode(name).decode("utf-8", "replace")
                yield shown, "its name is not UTF-8, rename it"
            elif why := _junk(entry.name):
                yield name, why
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in above:
                    yield name, "a link to a folder that holds it"
                else:
                    yield from below(entry.path, f"{name}/", above | {real})
            elif not entry.is_file():
                broken = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110
                yield name, "a link that leads nowhere" if broken else "no regular file"
            else:
                yield name, _no_photo(name)

    yield from below(root, "", frozenset({os.path.realpath(root)}))


def _listed(store: Store) -> Iterator[tuple[str, str | None]]:
    for path in sorted(store.fs.find(store.root)):
        name = path[len(store.root) :].lstrip("/")
        if name:  # the mark of the folder itself has none
            junk = (_junk(part) for part in PurePosixPath(name).parts)
            yield name, next((why for why in junk if why), None) or _no_photo(name)


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _junk(name: str) -> str | None:
    if not name.strip():
        return "its name is spaces alone"
    if name.startswith("."):
        return "hidden"
    if name.lower() in _OF_SYSTEMS:
        return "left by an operating system or archive"
    return None


def _no_photo(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.suffix.lower() not in PHOTO_SUFFIXES:
        return "its name does not end as a photo's"
    return None if path.stem.strip() else "its name has no letters before the ending"
