"""The columns of MultiID-Bench, of a finished run: Sim(GT), Sim(Ref), copy-paste, CLIP-I, CLIP-T.

With g, t, r the face embeddings of the generated picture, the ground truth and the reference, all
found in the whole pictures (Xu et al., arXiv 2510.14975, section 4):

    Sim(GT) = cos(g, t),  Sim(Ref) = cos(g, r),  CP = (angle(g, t) - angle(g, r)) / angle(t, r)

each by every network at hand and as the mean over networks. A copy of the reference has CP 1. The
paper ranks CP only where Sim(GT) > 0.40, below which the person is not kept and copying has no
meaning; that column is given too, with the number of pictures that it is over.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.benchmarks.cases import Benchmark
from eval.dataset_metrics import copy_paste_score
from eval.json_values import json_value
from eval.judges.given import GivenJudges
from eval.judges.networks import FACE_FILES, Need, Networks
from eval.picture_batch import PictureBatch
from eval.pictures import open_picture
from eval.reports.formatting import rounded
from eval.run_data import RunData, read_run
from eval.stats import Summary, summarise
from eval.units import units_of_samples
from eval.vectors import cosine

__all__ = ["KEPT", "measure_benchmark", "table_csv", "table_markdown"]

KEPT = 0.40
_BATCH = 16
_NAMED = 5  # cases of a note
_COLUMNS = (
    ("sim_gt", "Sim(GT) ↑"),
    ("sim_ref", "Sim(Ref) ↑"),
    ("copy_paste", "CP ↓"),
    ("copy_paste_kept", f"CP where Sim(GT) > {KEPT:.2f} ↓"),
    ("clip_i", "CLIP-I ↑"),
    ("clip_t", "CLIP-T ↑"),
    ("aesthetic", "Aes ↑"),
)
Floats = NDArray[np.float64]


def measure_benchmark(
    run_dir: str | Path,
    benchmark: Benchmark,
    preset_name: str = "pocket",
    *,
    threads: int = 1,
    options: Mapping[str, Any] | None = None,
    scorer: str | None = None,
    judges: GivenJudges | None = None,
) -> dict[str, Any]:
    """Writes benchmark.json, and report/benchmark.csv and .md, into a run folder.

    Args:
        run_dir: folder or address of a run of the benchmark's cases (identity_id = case_id).
        benchmark: as it was read.
        preset_name: decides the image-text model.
        threads: of each network.
        options: of file systems by scheme.
        scorer: folder of an OpenCLIP model in place of the preset's.
        judges: ArcFace, AdaFace and the aesthetic predictor, where they are given.

    Returns:
        What benchmark.json holds: "benchmark", "networks", "judge" of CLIP-I and CLIP-T, "notes"
        and "methods": name -> network (and "mean") -> column -> summary over the cases.
    """
    given = judges or GivenJudges()
    data = read_run(run_dir, options)
    needs: set[Need] = {"faces", "facenet", "image_text"}
    needs |= {name for name in FACE_FILES if name in given}
    if "aesthetic" in given:
        needs.add("aesthetic")
    networks = Networks(needs, preset_name, threads, scorer=scorer, judges=given)
    references = _features(networks, {case.case_id: case.reference for case in benchmark.cases})
    targets = _features(
        networks, {case.case_id: case.target for case in benchmark.cases if case.target is not None}
    )
    rows, columns = _score(data, networks, references, targets)
    methods = {
        name: _summaries(data, rows, columns, data.samples["method"][rows] == name)
        for name in data.names("method")
    }
    model = networks.image_text
    found = {
        "benchmark": benchmark.name,
        "cases": len(benchmark.cases),
        "networks": {one.name: one.revision for one in networks.face_judges().values()},
        "judge": "" if model is None else f"{model.name}, {model.revision}",
        "notes": [
            *benchmark.notes,
            *_faceless("reference", "Sim(Ref) and CP", references),
            *_faceless("ground truth", "Sim(GT) and CP", targets),
        ],
        "methods": methods,
    }
    found = json.loads(json.dumps(json_value(found)))
    folder = data.folder
    folder.write("benchmark.json", json.dumps(found, indent=1).encode())
    folder.write("report/benchmark.csv", table_csv(found).encode())
    folder.write("report/benchmark.md", table_markdown(found).encode())
    return found


def _embedded(networks: Networks, batch: PictureBatch) -> dict[str, Floats]:
    """Network -> (N, D) features of the largest faces; NaN without a face."""
    return {
        one.name: batch.face_features(key).astype(np.float64)
        for key, one in networks.face_judges().items()
    }


def _batch(networks: Networks, pictures: Sequence[NDArray[np.uint8]]) -> PictureBatch:
    blank = [""] * len(pictures)
    return PictureBatch(networks, pictures, blank, [[]] * len(pictures), blank)


def _features(
    networks: Networks, encoded: Mapping[str, bytes]
) -> dict[str, tuple[dict[str, Floats], Floats]]:
    """case -> (network -> (D,) of the face, (W,) of the whole picture)."""
    found = {}
    for case, data in encoded.items():
        picture = open_picture(data)
        if picture is None:
            continue
        batch = _batch(networks, [np.asarray(picture)])
        faces = {name: one[0] for name, one in _embedded(networks, batch).items()}
        found[case] = (faces, batch.image_features[0].astype(np.float64))
    return found


def _faceless(
    what: str, columns: str, photos: Mapping[str, tuple[dict[str, Floats], Floats]]
) -> list[str]:
    """A sentence where photos show no face; they are in no mean of these columns."""
    lost = [case for case, (faces, _) in photos.items() if np.isnan(faces["FaceNet"]).any()]
    if not lost:
        return []
    named = ", ".join(lost[:_NAMED]) + (" and others" if len(lost) > _NAMED else "")
    return [
        f"No face is found in the {what} of {len(lost)} of {len(photos)} cases ({named}), which "
        f"have no {columns}"
    ]


def _score(
    data: RunData,
    networks: Networks,
    references: Mapping[str, tuple[dict[str, Floats], Floats]],
    targets: Mapping[str, tuple[dict[str, Floats], Floats]],
) -> tuple[NDArray[np.int64], dict[str, dict[str, Floats]]]:
    """Rows of `RunData.samples`, and network -> column -> a value a row."""
    row_of = {name: row for row, name in enumerate(data.samples["sample_id"].tolist())}
    names = [one.name for one in networks.face_judges().values()]
    rows: list[int] = []
    values: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    made = data.samples["sample_id"][data.samples["has_image"]].tolist()
    for group in _grouped(data, made):
        pictures = [np.asarray(picture) for _, picture in group]
        batch = _batch(networks, pictures)
        faces, whole = _embedded(networks, batch), batch.image_features.astype(np.float64)
        prompts = [data.samples["prompt"][row_of[key]] for key, _ in group]
        texts = np.stack(networks.text(prompts)).astype(np.float64)
        liked = networks.aesthetic.score(pictures) if hasattr(networks, "aesthetic") else None
        for place, (key, _) in enumerate(group):
            row = row_of[key]
            rows.append(row)
            case = data.samples["identity_id"][row]
            reference, target = references.get(case), targets.get(case)
            shown = target or reference
            common = {
                "clip_i": math.nan if shown is None else cosine(whole[place], shown[1]),
                "clip_t": cosine(whole[place], texts[place]),
                "aesthetic": math.nan if liked is None else float(liked[place]),
            }
            for name in names:
                own = faces[name][place]
                r = None if reference is None else reference[0][name]
                t = None if target is None else target[0][name]
                values[name].append({**_similarities(own, r, t), **common})
    columns = {
        name: {key: np.array([one[key] for one in found], dtype=np.float64) for key in _KEYS}
        for name, found in values.items()
    }
    columns["mean"] = {
        key: np.mean([columns[name][key] for name in names], axis=0) for key in _KEYS
    }
    for found in columns.values():
        kept = found["sim_gt"] > KEPT
        found["copy_paste_kept"] = np.where(kept, found["copy_paste"], np.nan)
    return np.array(rows, dtype=np.int64), columns


_KEYS = ("sim_gt", "sim_ref", "copy_paste", "clip_i", "clip_t", "aesthetic")


def _similarities(own: Floats, r: Floats | None, t: Floats | None) -> dict[str, float]:
    missing = np.isnan(own).any()
    r = None if r is None or missing or np.isnan(r).any() else r
    t = None if t is None or missing or np.isnan(t).any() else t
    found = {
        "sim_gt": math.nan if t is None else cosine(own, t),
        "sim_ref": math.nan if r is None else cosine(own, r),
        "copy_paste": math.nan,
    }
    if r is not None and t is not None:
        found["copy_paste"] = float(copy_paste_score([own], [t], [r])[0])
    return found


def _grouped(data: RunData, ids: Sequence[str]) -> Iterator[list[tuple[str, Any]]]:
    group = []
    for key, encoded in data.pictures(ids):
        picture = open_picture(encoded)
        if picture is None:
            continue
        group.append((key, picture))
        if len(group) == _BATCH:
            yield group
            group = []
    if group:
        yield group


def _summaries(
    data: RunData,
    rows: NDArray[np.int64],
    columns: Mapping[str, Mapping[str, Floats]],
    mine: NDArray[np.bool_],
) -> dict[str, dict[str, Any]]:
    chosen = rows[mine]
    people = data.samples["identity_id"][chosen].astype(str)
    units = units_of_samples(data.samples, chosen)
    pictures = data.samples["picture"][chosen]

    def summary(values: Floats) -> Summary:
        return summarise(values[mine], people, units, pictures=pictures)

    return {
        network: {key: asdict(summary(values)) for key, values in found.items()}
        for network, found in columns.items()
    }


def table_csv(found: Mapping[str, Any]) -> str:
    """One line a method, network and column; numbers are not rounded, unknown ones are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "network", "column", "mean", "low", "high", "n", "nan", "cases"])
    for method, networks in found["methods"].items():
        for network, columns in networks.items():
            for key, _ in _COLUMNS:
                cell = columns[key]
                ends = ["" if cell[k] is None else repr(cell[k]) for k in ("mean", "low", "high")]
                counts = [cell["n"], cell["nan"], cell["identities"]]
                writer.writerow([method, network, key, *ends, *counts])
    return stream.getvalue()


def table_markdown(found: Mapping[str, Any]) -> str:
    """The table in the benchmark's columns: means over networks, intervals over cases."""
    judges = ", ".join(f"{name} ({revision})" for name, revision in found["networks"].items())
    mean = "; similarities are their mean" if len(found["networks"]) > 1 else ""
    lines = [
        f"# {found['benchmark']}",
        "",
        f"{found['cases']} cases. Faces are compared by {judges}{mean}. "
        f"CLIP-I and CLIP-T are by {found['judge']}, CLIP-I to the "
        "ground truth where there is one, else to the reference. Brackets: 95 % intervals.",
        *(f"\n{note}." for note in found["notes"]),
        "",
        "| method | " + " | ".join(title for _, title in _COLUMNS) + " |",
        "|---" * (len(_COLUMNS) + 1) + "|",
    ]
    for method, networks in found["methods"].items():
        cells = []
        for key, _ in _COLUMNS:
            cell = networks["mean"][key]
            text = "–" if cell["mean"] is None else _three(cell["mean"])
            if cell["low"] is not None:
                text += f" [{_three(cell['low'])}, {_three(cell['high'])}]"
            cells.append(f"{text} (n {cell['n']})" if key == "copy_paste_kept" else text)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _three(value: float) -> str:
    return rounded(value, 3).replace("-", "−")
