"""MultiID-Bench (Xu et al., "WithAnyone", arXiv 2510.14975): one person a picture, or two to four.

Three layouts are read, all as published:

- the data set on the hub: `data/*.parquet` with the columns GT, input_images, prompt, subset
  (`v200_single` has one person a picture);
- what the authors' scripts write of it: `v200_single.json`, `v202.json` (two people) and
  `v200_m.json` (three or four), lists of {prompt, image_paths, ori_img_path}, beside the pictures
  in `v200_single/untar/`, `v202/untar/` and `v200_m/`;
- what their evaluation reads: a folder a case with `ori.jpg` (ground truth), `ref_1.jpg` to
  `ref_4.jpg`, one a person, and `meta.json` ({"prompt": ...}).

Cases of the other number of people are left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from eval.benchmarks.cases import Benchmark, Case, GroupCase

__all__ = ["read_multiid", "read_multiid_groups"]

_SINGLE = "v200_single"
_LAYOUTS = (
    f"data/*.parquet of the hub, {_SINGLE}.json, v202.json or v200_m.json with their pictures, or "
    "a folder a case with ori.jpg, ref_1.jpg (of each person one) and meta.json"
)


_INDEXES = {_SINGLE: f"{_SINGLE}/untar", "v202": "v202/untar", "v200_m": "v200_m"}
"""Name of an index -> where its pictures are."""


class _Found(NamedTuple):
    """A case as it lies there: references one a person, target, prompt."""

    case_id: str
    references: list[bytes]
    target: bytes | None
    prompt: str


def read_multiid(folder: str | Path) -> Benchmark:
    """The cases of one person, numbered as the authors number them.

    Args:
        folder: in one of the three layouts.

    Raises:
        ValueError: none of them is there, or a case lacks what it needs.
    """
    found, others = _read(Path(folder), groups=False)
    cases = [Case(one.case_id, one.references[0], one.target, one.prompt) for one in found]
    few = "1 case of several people is" if others == 1 else f"{others} cases of several people are"
    notes = [f"{few} left out"] if others else []
    return Benchmark("MultiID-Bench, one person", cases, notes=notes)


def read_multiid_groups(folder: str | Path) -> Benchmark:
    """The cases of two to four people; a person is one reference, `CASE#NUMBER`.

    Where `v202.json` and `v200_m.json` are both there, which number their cases alike, the name of
    the index stands before a case's.

    Args:
        folder: in one of the three layouts.

    Raises:
        ValueError: none of them is there, or a case lacks what it needs.
    """
    found, others = _read(Path(folder), groups=True)
    people, groups = [], []
    for one in found:
        names = tuple(f"{one.case_id}#{n}" for n in range(1, len(one.references) + 1))
        pairs = zip(names, one.references, strict=True)
        people += [Case(name, reference) for name, reference in pairs]
        groups.append(GroupCase(one.case_id, names, one.prompt))
    few = "1 case of one person is" if others == 1 else f"{others} cases of one person are"
    notes = [f"{few} left out"] if others else []
    return Benchmark("MultiID-Bench, two to four people", people, notes=notes, groups=groups)


def _read(root: Path, *, groups: bool) -> tuple[list[_Found], int]:
    """The cases, and how many of the other kind there are."""
    if not root.is_dir():
        raise ValueError(f"MultiID-Bench folder {str(root)!r} does not exist")
    tables = sorted((root / "data").glob("*.parquet")) or sorted(root.glob("*.parquet"))
    if tables:
        found, others = _of_hub(tables, groups)
    elif any((root / f"{name}.json").is_file() for name in _INDEXES):
        found, others = _of_indexes(root, groups)
    else:
        found, others = _of_folders(root, groups)
    if not found:
        kind = "several people" if groups else "one person"
        raise ValueError(
            f"MultiID-Bench folder {str(root)!r} holds no case of {kind}, allowed: {_LAYOUTS}"
        )
    return found, others


def _of_hub(tables: list[Path], groups: bool) -> tuple[list[_Found], int]:
    needed = ["GT", "input_images", "prompt", "subset"]
    cases, number = [], 0
    for path in tables:
        present = pq.read_schema(path).names
        lacking = [name for name in needed if name not in present]
        if lacking:
            raise ValueError(
                f"{path} lacks the column {lacking[0]!r}, present: {', '.join(present)}"
            )
        for row in pq.read_table(path, columns=needed).to_pylist():
            number += 1
            if (row["subset"] != _SINGLE) != groups:
                continue
            where = f"{path}, row {number}"
            if not row["input_images"] or not row["prompt"]:
                raise ValueError(f"{where} has no reference or no prompt, allowed: one of each")
            shown = row["input_images"] if groups else row["input_images"][:1]
            cases.append(
                _Found(
                    f"{number:04d}",
                    [_bytes(image, where) for image in shown],
                    # No column of groups reads it.
                    None if groups else _bytes(row["GT"], where),
                    row["prompt"],
                )
            )
    return cases, number - len(cases)


def _bytes(image: Mapping[str, Any] | None, where: str) -> bytes:
    data = (image or {}).get("bytes")
    if not data:
        raise ValueError(f"{where} has a picture without its bytes, allowed: encoded pictures")
    return bytes(data)


def _of_indexes(root: Path, groups: bool) -> tuple[list[_Found], int]:
    cases, others = [], 0
    there = [index for index in _INDEXES if (root / f"{index}.json").is_file()]
    several = sum(index != _SINGLE for index in there) > 1
    for index in there:
        place = _INDEXES[index]
        rows = _json(root / f"{index}.json")
        if (index != _SINGLE) != groups:
            others += len(rows)
            continue
        for number, row in enumerate(rows):
            where = f"{index}.json, entry {number}"
            try:
                prompt, target, (*shown,) = row["prompt"], row["ori_img_path"], row["image_paths"]
                if not shown:
                    raise ValueError
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{where} lacks prompt, ori_img_path or image_paths, allowed: all three"
                ) from None
            shown = shown if groups else shown[:1]
            references = [_inside(root / place, name, where) for name in shown]
            truth = None if groups else _inside(root / place, target, where)
            name = f"{index}_{Path(target).stem}" if groups and several else Path(target).stem
            cases.append(_Found(name, references, truth, prompt))
    return cases, others


def _of_folders(root: Path, groups: bool) -> tuple[list[_Found], int]:
    cases, others = [], 0
    for folder in sorted(one for one in root.iterdir() if one.is_dir()):
        if not (folder / "meta.json").is_file():
            continue
        if (folder / "ref_2.jpg").is_file() != groups:
            others += 1
            continue
        meta = _json(folder / "meta.json")
        if not isinstance(meta, dict) or not isinstance(meta.get("prompt"), str):
            raise ValueError(f'{folder / "meta.json"} has no prompt, allowed: {{"prompt": text}}')
        names = ["ref_1.jpg"]
        names += [name for n in (2, 3, 4) if (folder / (name := f"ref_{n}.jpg")).is_file()]
        references = [_inside(folder, name, folder.name) for name in names]
        truth = None if groups else _inside(folder, "ori.jpg", folder.name)
        cases.append(_Found(folder.name, references, truth, meta["prompt"]))
    return cases, others


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as JSON ({reason})") from error


def _inside(folder: Path, name: Any, where: str) -> bytes:
    """A picture of the folder; a name from a file never leads out of it."""
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"{where}: picture {name!r} is not in {folder}")
    return path.read_bytes()
