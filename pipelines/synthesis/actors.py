"""Actors of a synthesis besides those of every run: known people, measures, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from eval.judges.known_people import KnownPeople
from pipelines.run.units import commit_unit, read_unit, unit_of
from pipelines.stages.scoring import ScoringActor
from pipelines.synthesis.config import Gates
from pipelines.synthesis.gates import Accepted, refusal
from pipelines.synthesis.slots import RoundPlan
from pipelines.tables.pictures import decode_image
from pipelines.tables.rejects import reject_row
from pipelines.tables.schemas import REFERENCES, SAMPLE_KEYS, VERDICTS, measures_schema
from pipelines.tables.storage import Store

__all__ = ["MeasuringActor", "ReferenceActor", "VerdictActor", "fingerprint", "known_people"]

_KEYS = [field.name for field in SAMPLE_KEYS]
_READERS = 8


def fingerprint(image: NDArray[np.uint8]) -> int:
    """64-bit perceptual hash (signs of low DCT frequencies) of uint8 (H, W, 3) RGB."""
    return int(str(imagehash.phash(Image.fromarray(image))), 16)


def known_people(places: Sequence[tuple[Store, str]]) -> KnownPeople:
    """The people of `references` tables.

    Args:
        places: (store, folder) of each table.

    Raises:
        ValueError: tables that different networks made.
    """
    tables = [store.read_folder(folder, REFERENCES) for store, folder in places]
    table = pa.concat_tables(tables)
    revisions = sorted(set(table["revision"].to_pylist()))
    if len(revisions) > 1:
        raise ValueError(f"references are of {' and '.join(revisions)}, allowed: of one network")
    faces = np.array(table["face"].to_pylist(), dtype=np.float32)
    return KnownPeople(table["identity_id"].to_pylist(), faces)


class ReferenceActor:
    """Committed `faces` of a unit -> how the judge sees these people; commits `references`.

    Args:
        store: whose `faces` are read.
    """

    def __init__(self, store: Store) -> None:
        from eval.judges.networks import Networks

        self._store = store
        self._networks = Networks({"faces", "facenet"}, "pocket", 1)

    def __call__(self, units: pa.Table) -> pa.Table:
        unit = unit_of(units, "references")
        done = read_unit(self._store, "references", unit, ["identity_id"])
        if done is None:
            done = commit_unit(self._store, "references", unit, self._rows(unit), REFERENCES)
        return pa.table({"unit": [unit], "people": [done.num_rows]})

    def _rows(self, unit: int) -> list[dict[str, Any]]:
        faces = read_unit(self._store, "faces", unit, ["identity_id", "aligned"])
        crops: dict[str, list[NDArray[np.uint8]]] = {}
        for row in faces.to_pylist() if faces is not None else ():
            crops.setdefault(row["identity_id"], []).append(decode_image(row["aligned"]))
        rows = []
        for key, photos in crops.items():
            mean = np.mean(self._networks.facenet_reference(photos), axis=0)
            rows.append(
                {
                    "identity_id": key,
                    "face": (mean / np.linalg.norm(mean)).tolist(),
                    "revision": self._networks.facenet.revision,
                }
            )
        return rows


class MeasuringActor(ScoringActor):
    """Pictures of a unit -> all that the gates look at; commits `scores`.

    Args:
        store: the run folder.
        plan: the round.
        gates: decide which networks are loaded.
        preset_name, device, scorer: see `ScoringActor`.
        references: (store, folder) of tables of known people.
    """

    def __init__(
        self,
        store: Store,
        plan: RoundPlan,
        gates: Gates,
        preset_name: str,
        references: Sequence[tuple[Store, str]],
        device: str = "cpu",
        scorer: str | None = None,
    ) -> None:
        metrics = [*gates.metrics, *_judge(gates)]
        super().__init__(store, plan, metrics, preset_name, device=device, scorer=scorer)
        self._known = None if gates.other_identity is None else known_people(references)

    def load(self) -> None:
        """See `ScoringActor.load`."""
        super().load()
        self._schema = measures_schema(list(self._suite.metrics))

    def _score(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
        batch = self._batch(rows)
        nearest: list[tuple[float, str | None]] = [(float("nan"), None)] * len(rows)
        if self._known is not None:
            nearest = [
                self._known.nearest(faces, self._people_in(row))
                for row, faces in zip(rows, batch.facenet_features, strict=True)
            ]
        columns = {
            **{name: [row[name] for row in rows] for name in _KEYS},
            **self._suite.measure(batch),
            "fingerprint": [fingerprint(image) for image in batch.images],
            "other_identity": [cosine for cosine, _ in nearest],
            "other_person": [person for _, person in nearest],
        }
        return pa.table(columns, schema=self._schema), []


def _judge(gates: Gates) -> list[str]:
    """FaceNet is loaded with its metric; without any gate something must be measured."""
    if gates.other_identity is not None and gates.identity is None:
        return ["identity_facenet"]
    return [] if gates.metrics else ["face_count"]


class VerdictActor:
    """Measures of a block's round -> which pictures are accepted; commits `verdicts`.

    Args:
        store: the run folder.
        plan: the round.
        gates: what a picture has to pass.
    """

    def __init__(self, store: Store, plan: RoundPlan, gates: Gates) -> None:
        self._store, self._plan, self._gates = store, plan, gates

    def __call__(self, units: pa.Table) -> pa.Table:
        number = unit_of(units, "verdicts")
        block = number // self._plan.slots.rounds
        done = read_unit(self._store, "verdicts", number, ["accepted"])
        if done is None:
            rows, rejects = self._decide(block)
            done = commit_unit(self._store, "verdicts", number, rows, VERDICTS, rejects)
        accepted = sum(done["accepted"].to_pylist())
        return pa.table({"unit": [number], "accepted": [accepted], "drawn": [done.num_rows]})

    def _decide(self, block: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        accepted = self._accepted_before(block)
        units = self._plan.block_units(block)
        rows, rejects = [], []
        with ThreadPoolExecutor(_READERS) as readers:
            tables = readers.map(lambda unit: read_unit(self._store, "scores", unit), units)
            for unit, scores in zip(units, tables, strict=True):
                measured = {row["sample_id"]: row for row in scores.to_pylist()} if scores else {}
                for slot, person, request in self._plan.rows(unit):
                    found = measured.get(request["sample_id"])
                    why = refusal(found, person, self._gates, accepted)
                    mark = None if found is None else found["fingerprint"]
                    if why is None and mark is not None:
                        accepted.add(person, mark)
                    if why is not None:
                        rejects.append(reject_row("verdicts", request["sample_id"], *why))
                    rows.append(
                        {
                            **{name: request[name] for name in _KEYS},
                            "unit": unit,
                            "round": self._plan.number,
                            "person": person,
                            "slot": slot,
                            "accepted": why is None,
                            "reason": None if why is None else why[0],
                            "fingerprint": mark,
                        }
                    )
        return rows, rejects

    def _accepted_before(self, block: int) -> Accepted:
        accepted = Accepted()
        for earlier in range(self._plan.number):
            number = self._plan.slots.verdict(block, earlier)
            columns = ["person", "accepted", "fingerprint"]
            verdicts = read_unit(self._store, "verdicts", number, columns)
            for row in verdicts.to_pylist() if verdicts is not None else ():
                if row["accepted"]:
                    accepted.add(row["person"], row["fingerprint"])
        return accepted
