"""A run folder, read from disk without Ray: what a report is made of.

A run is a folder with `run.json` and one folder of Parquet files a table: faces, embeddings,
requests, images, scores, rejects (columns: `pipelines.tables.schemas`). Encoded pictures stay on
disk: only those that a report shows are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from eval.distinct_pictures import distinct_pictures
from eval.group_data import GroupData, groups_of, read_groups
from eval.metric_info import MetricInfo
from eval.run_folder import RunFiles

__all__ = ["KEYS", "RunData", "read_run"]

KEYS = ("sample_id", "identity_id", "method", "prompt_id", "style", "seed")
# Of requests: what a picture begins with and is held to.
_GIVEN = (
    "image", "mask_image", "strength", "control_image", "control_keypoints",
    "controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end",
    "control_streams",
)  # fmt: skip
_PICTURES = ("image", "mask_image", "control_image")


@dataclass(frozen=True, slots=True)
class RunData:
    """The tables of a run, joined by sample_id.

    Attributes:
        folder: where it came from.
        run: content of run.json, empty where it is missing.
        samples: column -> (N,) array, one entry a request: `KEYS`, "prompt", the booleans
            "has_image" and "has_scores", and "picture": equal numbers where requests of several
            people were answered by one and the same picture (see `distinct_pictures`); "given": a
            text that names what it begins with and is held to, or an empty one: pictures by
            "content DIGEST", or "address ADDRESS" where the digest is not known; "person": the
            identity, the person whose coarser photo it is, or "a + b" for mixes of a and b.
        scores: metric name -> float64 (N,); NaN where unscorable or not scored. Metrics that were
            left out are in `missing`.
        metrics: of the scores table, in its order.
        rejects: rows as dicts.
        face_count: rows of the faces table.
        model_revisions: method -> revisions named in the images table.
        missing: one sentence for each thing that is not there.
        groups: pictures of several people, which all of the above leaves out, but for `missing`.
    """

    folder: RunFiles
    run: dict[str, Any]
    samples: dict[str, NDArray[Any]]
    scores: dict[str, NDArray[np.float64]]
    metrics: dict[str, MetricInfo]
    rejects: list[dict[str, Any]]
    face_count: int
    model_revisions: dict[str, list[str]]
    missing: list[str] = field(default_factory=list)
    groups: GroupData = field(default_factory=GroupData)

    def __len__(self) -> int:
        return len(self.samples["sample_id"])

    def names(self, column: str) -> list[str]:
        """Distinct values of a sample column, in order of appearance."""
        return list(dict.fromkeys(self.samples[column].tolist()))

    def pictures(self, sample_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """(sample_id, encoded picture) of those of `sample_ids` that were made."""
        images = self.folder.dataset("images")
        if images is None or not len(sample_ids):
            return
        wanted = pc.field("sample_id").isin(pa.array(sample_ids, pa.string()))
        for fragment in images.get_fragments():
            # Counting reads the ids alone: a file without a wanted picture costs next to nothing.
            if not fragment.count_rows(filter=wanted):
                continue
            for batch in fragment.to_batches(
                columns=["sample_id", "image"], filter=wanted, batch_size=64, batch_readahead=2
            ):
                ids, encoded = batch["sample_id"].to_pylist(), batch["image"].to_pylist()
                yield from zip(ids, encoded, strict=True)

    def references(self, identity_ids: Sequence[str]) -> dict[str, bytes]:
        """First aligned crop (PNG) of each of these people, as far as the run has them."""
        wanted = pc.field("identity_id").isin(pa.array(identity_ids, pa.string()))
        found: dict[str, bytes] = {}
        for table in ("embeddings", "faces"):
            source = self.folder.dataset(table)
            if source is None:
                continue
            for row in source.to_table(
                columns=["identity_id", "aligned"], filter=wanted
            ).to_pylist():
                crops = row["aligned"] if isinstance(row["aligned"], list) else [row["aligned"]]
                if crops:
                    found.setdefault(row["identity_id"], crops[0])
        return found

    def originals(self) -> dict[str, str]:
        """identity -> the person whose coarser photo it is; no entry for the person."""
        return _originals(self.folder)

    def mixes(self) -> dict[str, list[str]]:
        """mix id -> the people it is made of."""
        return _mixes(self.folder)

    def people(self) -> list[str]:
        """Who is in the pictures, in order of appearance: a mix's people, and no coarser photo."""
        mixes, originals = self.mixes(), self.originals()
        parts = (mixes.get(name, [name]) for name in self.names("identity_id"))
        return list(dict.fromkeys(originals.get(one, one) for names in parts for one in names))


def read_run(address: str | Path, options: Mapping[str, Any] | None = None) -> RunData:
    """Reads a run folder; what is missing is said in `RunData.missing`.

    Args:
        address: of the folder.
        options: of file systems by scheme.

    Raises:
        ValueError: no such folder, nothing in it to report on, or scores or images of another
            run (sample_ids that none of the requests has).
    """
    folder = RunFiles(address, options)
    missing: list[str] = []
    run = folder.read_json("run.json")
    if run is None:
        missing.append("run.json is missing or unreadable: no configuration, environment, timings")
    tables = {
        "requests": _read(folder, "requests", [*KEYS, "prompt", *_GIVEN]),
        "images": _read(folder, "images", [*KEYS, "prompt", "model_revision"]),
        "scores": _read(folder, "scores", None),
    }
    rejects = _read(folder, "rejects", None)
    missing += [f"table {name} is missing" for name, table in tables.items() if table is None]
    present = {name: table for name, table in tables.items() if table is not None}
    if not present and rejects is None and run is None:
        raise ValueError(
            f"{folder.url} is no run folder: it has neither run.json nor any of the tables "
            "requests, images, scores, rejects"
        )
    tables_unique = {name: _unique(table, name, missing) for name, table in present.items()}
    base = next(iter(tables_unique.values()), _empty())
    for name, table in tables_unique.items():
        _check_same_run(base, table, name, folder.url)
    samples = {name: _column(base, name) for name in (*KEYS, "prompt")}
    samples["given"] = _given(base, folder) if "requests" in present else _column(base, "given")
    ids = base["sample_id"]
    images, scored = tables_unique.get("images"), tables_unique.get("scores")
    originals = _originals(folder)
    mixes = _mixes(folder)
    # All steps between two people are one pair: no step is a further person.
    pairs = {name: " + ".join(dict.fromkeys(parts)) for name, parts in mixes.items()}
    stands_for = originals | pairs
    samples["person"] = np.array(
        [stands_for.get(name, name) for name in samples["identity_id"].tolist()], dtype=object
    )
    samples["has_image"] = _is_in(ids, images)
    samples["has_scores"] = _is_in(ids, scored)
    names = [] if scored is None else [n for n in scored.column_names if n not in KEYS]
    # A run that broke off may have written its metrics but not its run.json.
    known = (run or {}).get("metrics") or folder.read_json("metrics.json") or {}
    infos = {name: MetricInfo.from_dict(name, known.get(name) or {}) for name in names}
    missing += [info.left_out for info in infos.values() if info.left_out]
    names = [name for name in names if not infos[name].left_out]
    faces = folder.dataset("faces")
    data = RunData(
        folder=folder,
        run=run or {},
        samples=samples,
        scores={} if scored is None else _aligned_scores(ids, scored, names),
        metrics={name: infos[name] for name in names},
        rejects=[] if rejects is None else rejects.to_pylist(),
        face_count=0 if faces is None else faces.count_rows(),
        model_revisions=_revisions(images),
        missing=missing,
    )
    samples["picture"] = distinct_pictures(data)
    missing += folder.unreadable
    _note_incomplete(data)
    return _without_groups(data)


def _without_groups(data: RunData) -> RunData:
    """What is said of one person is not said of a group; it has a table of its own."""
    people = groups_of(data.folder)
    if not people:
        return data
    theirs = np.isin(data.samples["identity_id"].astype(str), list(people))
    samples = {name: values[theirs] for name, values in data.samples.items()}
    return replace(
        data,
        samples={name: values[~theirs] for name, values in data.samples.items()},
        scores={name: values[~theirs] for name, values in data.scores.items()},
        groups=read_groups(data.folder, people, samples),
    )


def _mixes(folder: RunFiles) -> dict[str, list[str]]:
    requests = folder.dataset("requests")
    if requests is None or "mix_parts" not in requests.schema.names:
        return {}
    rows = requests.to_table(
        columns=["identity_id", "mix_parts"], filter=pc.field("mix_parts").is_valid()
    )
    return {
        row["identity_id"]: [part["identity_id"] for part in row["mix_parts"]]
        for row in rows.to_pylist()
    }


def _originals(folder: RunFiles) -> dict[str, str]:
    """identity -> the person whose photo it is, made coarser; no entry for the person."""
    scenario = folder.read_json("scenario.json") or {}
    variants = scenario.get("variants") or {}
    return {name: one["of"] for name, one in variants.items() if one["of"] != name}


def _read(folder: RunFiles, table: str, columns: list[str] | None) -> pa.Table | None:
    source = folder.dataset(table)
    if source is None:
        return None
    lacking = [name for name in KEYS if name not in source.schema.names]
    if table != "rejects" and lacking:
        raise ValueError(
            f"table {table} of {folder.url} lacks the column {lacking[0]!r}, present: "
            f"{', '.join(source.schema.names)}"
        )
    if columns is not None:
        columns = [name for name in columns if name in source.schema.names]
    return source.to_table(columns=columns)


def _unique(table: pa.Table, name: str, missing: list[str]) -> pa.Table:
    ids = table["sample_id"].to_numpy()
    _, first = np.unique(ids, return_index=True)
    if len(first) == len(ids):
        return table
    missing.append(
        f"table {name} has {len(ids) - len(first)} rows twice, the first of each is counted"
    )
    return table.take(np.sort(first))


def _check_same_run(base: pa.Table, table: pa.Table, name: str, address: str) -> None:
    known = pc.is_in(table["sample_id"], value_set=base["sample_id"])
    strangers = table.num_rows - (pc.sum(known).as_py() or 0)
    if strangers:
        raise ValueError(
            f"table {name} of {address} belongs to another run: {strangers} of its "
            f"{table.num_rows} sample_ids match no request"
        )


def _empty() -> pa.Table:
    kinds = [pa.int64() if name == "seed" else pa.string() for name in KEYS]
    return pa.table({n: pa.array([], kind) for n, kind in zip(KEYS, kinds, strict=True)})


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    if name not in table.column_names:
        return np.full(table.num_rows, "", dtype=object)
    return np.asarray(table[name].to_numpy(zero_copy_only=False))


def _given(requests: pa.Table, folder: RunFiles) -> NDArray[Any]:
    names = [
        name
        for name in _GIVEN
        if name in requests.column_names and requests[name].null_count < requests.num_rows
    ]
    if not names:
        return _column(requests, "given")
    digests = _picture_digests(folder)
    told = []
    for row in requests.select(["prompt_id", *names]).to_pylist():
        prompt = row.pop("prompt_id")
        for name in _PICTURES:
            if row.get(name) is not None:
                digest = digests.get((prompt, name))
                row[name] = f"address {row[name]}" if digest is None else f"content {digest}"
        known = {name: value for name, value in row.items() if value is not None}
        told.append(repr(known) if known else "")
    return np.array(told, dtype=object)


def _picture_digests(folder: RunFiles) -> dict[tuple[str, str], str | None]:
    """(prompt, column) -> digest of the picture's content, as far as the run has it."""
    prompts = folder.dataset("manifests/prompts.parquet")
    pictures = folder.dataset("manifests/pictures.parquet")
    if prompts is None or pictures is None:
        return {}
    names = prompts.to_table(columns=["prompt_id"])["prompt_id"].to_pylist()
    rows = pictures.to_table(columns=["row", "column", "digest"]).to_pylist()
    return {(names[one["row"]], one["column"]): one["digest"] for one in rows}


def _is_in(ids: pa.ChunkedArray, table: pa.Table | None) -> NDArray[np.bool_]:
    if table is None:
        return np.zeros(len(ids), dtype=bool)
    found = pc.is_in(ids, value_set=table["sample_id"])
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def _aligned_scores(
    ids: pa.ChunkedArray, table: pa.Table, names: list[str]
) -> dict[str, NDArray[np.float64]]:
    row = pc.index_in(ids, value_set=table["sample_id"])
    scores = {}
    for name in names:
        values = table[name].cast(pa.float64()).take(row)
        scores[name] = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    return scores


def _revisions(images: pa.Table | None) -> dict[str, list[str]]:
    if images is None or "model_revision" not in images.column_names:
        return {}
    pairs = images.group_by(["method", "model_revision"], use_threads=False).aggregate([])
    found: dict[str, list[str]] = {}
    for row in pairs.to_pylist():
        found.setdefault(row["method"], []).append(row["model_revision"])
    return found


def _note_incomplete(data: RunData) -> None:
    status = data.run.get("status")
    if status and status not in ("done", "finished", "complete", "ok"):
        data.missing.append(f"the run did not finish: its status is {status!r}")
    rejected = {(row["stage"], row["key"]) for row in data.rejects}
    for column, stage, what in (
        ("has_image", "images", "requests have no picture"),
        ("has_scores", "scores", "pictures have no scores"),
    ):
        expected = np.ones(len(data), bool) if stage == "images" else data.samples["has_image"]
        lost = data.samples["sample_id"][expected & ~data.samples[column]]
        if len(lost):
            known = sum((stage, key) in rejected for key in lost)
            data.missing.append(
                f"{len(lost)} of {int(expected.sum())} {what}: {known} were rejected with a "
                f"reason, {len(lost) - known} are not done"
            )
