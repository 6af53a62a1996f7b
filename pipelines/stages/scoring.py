"""The actor that scores pictures: it holds the judges and maps one unit's pictures to scores, and
those of several people to scores of each as well."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.plan.requests import UnitPlan
from pipelines.plan.weights import local_judges, local_weights
from pipelines.run.attempts import KILLED, Attempt, Attempts
from pipelines.run.units import commit_unit, unit_of
from pipelines.stages.device import check_device
from pipelines.tables.mixes_and_groups import group_regions
from pipelines.tables.people import IdentityStore
from pipelines.tables.pictures import decode_image
from pipelines.tables.rejects import reject_row
from pipelines.tables.schemas import GROUP_SCORES, SAMPLE_KEYS, scores_schema
from pipelines.tables.storage import Store

if TYPE_CHECKING:
    from eval.judges.given import GivenJudges
    from eval.picture_batch import PictureBatch

__all__ = [
    "ScoringActor",
]


_KEYS = [field.name for field in SAMPLE_KEYS]


class ScoringActor:
    """Pictures of a unit -> scores; commits `group_scores` where it has groups, then `scores`.

    A picture of a group has no reference person: its metrics of one person are NaN.

    Its networks are loaded when the first pictures come: until then a machine of few cores has
    generation actors to load, and there is nothing to score.

    Args:
        store: the run folder.
        plan: the request plan, which knows the people of mixes and groups.
        metrics: names, see `eval.suite`; None for the default ones.
        preset_name: decides which text and image scorer is used.
        threads: that find and embed faces.
        device: of torch, see `pipelines.stages.device.torch_device`.
        scorer: address of an OpenCLIP folder in place of the preset's scorer.
        judged_by: person -> the person whose photos judge instead: of a photo that was made
            coarser, the one with the original.
        judges: that the user gave; files are copied to this machine.
    """

    def __init__(
        self,
        store: Store,
        plan: UnitPlan,
        metrics: Sequence[str] | None,
        preset_name: str,
        *,
        threads: int = 1,
        device: str = "cpu",
        scorer: str | None = None,
        judged_by: Mapping[str, str] | None = None,
        judges: GivenJudges | None = None,
    ) -> None:
        self._store = store
        self._attempts = Attempts(store, "scores")
        self._wanted = (metrics, preset_name, threads)
        self._device, self._scorer = device, scorer
        self._loaded = False
        self._people = IdentityStore(store)
        self._parts = {
            subject.identity_id: {part["identity_id"]: part["weight"] for part in subject.mix_parts}
            for subject in plan.subjects
            if subject.mix_parts
        }
        self._groups = {
            subject.identity_id: subject for subject in plan.subjects if subject.group_people
        }
        self._judged_by = judged_by or {}
        self._judges = judges
        # The words that a style adds, which a style score reads; the prompt holds them too. A style
        # without words has no score: its name is no part of the prompt.
        self._style_words = {text.style: text.suffix for text in plan.texts}

    def load(self) -> None:
        """Loads the networks and writes down what their scores mean: before the first unit."""
        from eval.suite import load_suite

        metrics, preset_name, threads = self._wanted
        check_device(self._device)
        scorer = self._scorer
        options = self._store.options
        folder = None if scorer is None else local_weights(scorer, options)
        self._suite = load_suite(
            metrics,
            preset_name,
            threads=threads,
            device=self._device,
            scorer=folder,
            styles=sorted(set(self._style_words.values())),
            judges=None if self._judges is None else local_judges(self._judges, options),
            groups=bool(self._groups),
        )
        self._schema = scores_schema(list(self._suite.metrics))
        described = {name: info.as_dict() for name, info in self._suite.metrics.items()}
        self._store.write_bytes("metrics.json", json.dumps(described, indent=2).encode())
        self._loaded = True

    def __call__(self, images: pa.Table) -> pa.Table:
        unit = unit_of(images, "scores")
        rows = [row for row in images.to_pylist() if row["sample_id"] is not None]
        if not self._loaded:
            self.load()
        begin = time.perf_counter()
        with self._attempts.unit(unit) as attempt:
            table, people, rejects = self._measure(rows, attempt)
            if people:
                commit_unit(self._store, "group_scores", unit, people, GROUP_SCORES)
            commit_unit(self._store, "scores", unit, table, self._schema, rejects)
        return pa.table(
            {
                "unit": [unit],
                "pictures": [len(rows)],
                "generate_seconds": [float(sum(row["seconds"] for row in rows))],
                "score_seconds": [time.perf_counter() - begin],
            }
        )

    def _people_in(self, row: Mapping[str, Any]) -> dict[str, float]:
        """The people in a picture, each with a weight: a mix is what its weights make it, and a
        group is nobody in particular."""
        person = row["identity_id"]
        if person in self._groups:
            return {}
        return self._parts.get(person) or {self._judged_by.get(person, person): 1.0}

    def _measure(
        self, rows: list[dict[str, Any]], attempt: Attempt
    ) -> tuple[pa.Table, list[dict[str, Any]], list[dict[str, Any]]]:
        """Scores, those of each person of the groups, and rejects."""
        tables, people, rejects = [self._schema.empty_table()], [], []
        if rows and not attempt.alone:
            return *self._score(rows), []
        for row, allowed in attempt.rows(rows):
            if allowed:
                table, seen = self._score([row])
                tables.append(table)
                people += seen
            else:
                tables.append(self._unscorable(row))
                rejects.append(reject_row("scores", row["sample_id"], *KILLED))
        return pa.concat_tables(tables), people, rejects

    def _unscorable(self, row: Mapping[str, Any]) -> pa.Table:
        values = {
            field.name: math.nan if pa.types.is_floating(field.type) else None
            for field in self._schema
        }
        keys = {name: row[name] for name in _KEYS}
        return pa.Table.from_pylist([{**values, **keys}], schema=self._schema)

    def _batch(self, rows: list[dict[str, Any]]) -> PictureBatch:
        references, weights = [], []
        for row in rows:
            parts = self._people_in(row)
            photos = {key: one.images for key, one in self._people.get(parts).items()}
            references.append([photo for key in parts for photo in photos[key]])
            weights.append([w / len(photos[key]) for key, w in parts.items() for _ in photos[key]])
        return self._suite.batch(
            [decode_image(row["image"]) for row in rows],
            [row["prompt"] for row in rows],
            references,
            [self._style_words[row["style"]] for row in rows],
            weights,
        )

    def _score(self, rows: list[dict[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
        batch = self._batch(rows)
        columns = self._suite.measure(batch)
        own = {name: [row[name] for row in rows] for name in _KEYS}
        return pa.table({**own, **columns}, schema=self._schema), self._seen(rows, batch)

    def _seen(self, rows: list[dict[str, Any]], batch: PictureBatch) -> list[dict[str, Any]]:
        """Rows of `group_scores`: what each group's picture shows of each of its people."""
        from eval.groups import group_rows

        found = []
        for number, row in enumerate(rows):
            group = self._groups.get(row["identity_id"])
            if group is None or group.group_people is None:
                continue
            keys = {name: row[name] for name in _KEYS}
            known = self._people.get(group.group_people)
            faces = [known[person].images for person in group.group_people]
            # Of an image table before there were groups there is no column.
            regions = group_regions(row.get("regions")) or group.group_regions
            seen = group_rows(batch, number, faces, regions)
            found += [
                {**keys, "person": person, **one}
                for person, one in zip(group.group_people, seen, strict=True)
            ]
        return found
