"""MultiID-Bench (Xu et al., "WithAnyone", arXiv 2510.14975), the part with one person a picture.

Three layouts are read, all as published:

- the data set on the hub: `data/*.parquet` with the columns GT, input_images, prompt, subset (the
  part is `v200_single`);
- what the authors' hf2bench.py writes of it: `v200_single.json`, a list of {prompt, image_paths,
  ori_img_path}, beside the pictures in `v200_single/untar/`;
- what their evaluation reads: a folder a case with `ori.jpg` (ground truth), `ref_1.jpg` and
  `meta.json` ({"prompt": ...}); folders with a `ref_2.jpg` show several people.

Cases with several people are left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from eval.benchmarks.cases import Benchmark, Case

__all__ = ["read_multiid"]

_SINGLE = "v200_single"
_LAYOUTS = (
    f"data/*.parquet of the hub, {_SINGLE}.json with {_SINGLE}/untar/, or a folder a case with "
    "ori.jpg, ref_1.jpg and meta.json"
)


def read_multiid(folder: str | Path) -> Benchmark:
    """The cases of one person, numbered as the authors number them.

    Args:
        folder: in one of the three layouts.

    Raises:
        ValueError: none of them is there, or a case lacks what it needs.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"MultiID-Bench folder {str(root)!r} does not exist")
    tables = sorted((root / "data").glob("*.parquet")) or sorted(root.glob("*.parquet"))
    if tables:
        cases, others = _of_hub(tables)
    elif (root / f"{_SINGLE}.json").is_file():
        cases, others = _of_index(root)
    else:
        cases, others = _of_folders(root)
    if not cases:
        raise ValueError(
            f"MultiID-Bench folder {str(root)!r} holds no case of one person, allowed: {_LAYOUTS}"
        )
    few = "1 case of several people is" if others == 1 else f"{others} cases of several people are"
    notes = [f"{few} left out"] if others else []
    return Benchmark("MultiID-Bench, one person", cases, notes=notes)


def _of_hub(tables: list[Path]) -> tuple[list[Case], int]:
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
            if row["subset"] != _SINGLE:
                continue
            where = f"{path}, row {number}"
            if not row["input_images"] or not row["prompt"]:
                raise ValueError(f"{where} has no reference or no prompt, allowed: one of each")
            cases.append(
                Case(
                    f"{number:04d}",
                    _bytes(row["input_images"][0], where),
                    _bytes(row["GT"], where),
                    row["prompt"],
                )
            )
    return cases, number - len(cases)


def _bytes(image: Mapping[str, Any] | None, where: str) -> bytes:
    data = (image or {}).get("bytes")
    if not data:
        raise ValueError(f"{where} has a picture without its bytes, allowed: encoded pictures")
    return bytes(data)


def _of_index(root: Path) -> tuple[list[Case], int]:
    pictures = root / _SINGLE / "untar"
    cases = []
    for number, row in enumerate(_json(root / f"{_SINGLE}.json")):
        where = f"{_SINGLE}.json, entry {number}"
        try:
            prompt, target, (reference, *_) = row["prompt"], row["ori_img_path"], row["image_paths"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{where} lacks prompt, ori_img_path or image_paths, allowed: all three"
            ) from None
        reference_data, target_data = (
            _inside(pictures, name, where) for name in (reference, target)
        )
        cases.append(Case(Path(target).stem, reference_data, target_data, prompt))
    others = sum(
        len(_json(path)) for name in ("v202", "v200_m") if (path := root / f"{name}.json").is_file()
    )
    return cases, others


def _of_folders(root: Path) -> tuple[list[Case], int]:
    cases, others = [], 0
    for folder in sorted(one for one in root.iterdir() if one.is_dir()):
        if not (folder / "meta.json").is_file():
            continue
        if (folder / "ref_2.jpg").is_file():
            others += 1
            continue
        meta = _json(folder / "meta.json")
        if not isinstance(meta, dict) or not isinstance(meta.get("prompt"), str):
            raise ValueError(f'{folder / "meta.json"} has no prompt, allowed: {{"prompt": text}}')
        reference, target = (
            _inside(folder, name, folder.name) for name in ("ref_1.jpg", "ori.jpg")
        )
        cases.append(Case(folder.name, reference, target, meta["prompt"]))
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
