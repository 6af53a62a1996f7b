"""The actors: plain classes that hold a model and map one unit's table to the next.

They never import Ray, so the same classes run in Ray Data pools, in Ray Serve replicas, in a loop
in a test. The model is loaded in the constructor, on the worker.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infinite_id.config import Preset
from infinite_id.types import (
    CancelledError,
    Generator,
    Identity,
)
from pipelines.attempts import KILLED, Attempt, Attempts
from pipelines.failures import is_fatal
from pipelines.identities import IdentityStore
from pipelines.images import Provenance, decode_image, encode_image
from pipelines.made import Made, MadeUnits
from pipelines.metrics import count, observe
from pipelines.plan import UnitPlan, people_of, request_from_row
from pipelines.schemas import IMAGES, PROVENANCE, SAMPLE_KEYS, scores_schema
from pipelines.storage import Store
from pipelines.units import commit_unit, read_unit, reject_row, unit_block, unit_of
from pipelines.watermark import Watermark
from pipelines.weights_cache import local_preset

if TYPE_CHECKING:
    from eval.metrics import PictureBatch

__all__ = ["GenerationActor", "ScoringActor"]

_KEYS = [field.name for field in SAMPLE_KEYS]

_SWITCH_SECONDS = 0.0005

_Row = Mapping[str, Any]
_People = Mapping[str, Identity]


class GenerationActor:
    """Units of the request plan -> pictures; commits `images`.

    Two threads may call it at once: one generates while the other encodes and commits what it has
    put aside, so that a kill loses one batch and not two (see `pipelines.made`).

    Args:
        store: the run folder.
        plan: the request plan.
        preset: model family.
        image_format: png, webp or jpeg.
        watermark: text that every picture carries invisibly, None for none.
        device: "auto" takes a GPU where there is one.
        threads: of torch on the CPU.
        options: of the fsspec file system, should weights lie on one.
        put_aside: also where the run folder is on an object store, see `pipelines.made`.
    """

    def __init__(
        self,
        store: Store,
        plan: UnitPlan,
        preset: Preset,
        *,
        image_format: str = "png",
        watermark: str | None = None,
        device: str = "auto",
        threads: int = 1,
        options: Mapping[str, Any] | None = None,
        put_aside: bool = False,
    ) -> None:
        from infinite_id.methods import METHODS, load_generators

        names = [name for name, _ in plan.methods]
        start: Callable[[], None] | None = None
        # A generator without a model spares the seconds that torch takes to import.
        if any(METHODS[name].needs_base for name in names):
            import torch

            start = partial(torch.set_num_threads, threads)
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
        self._store, self._plan, self._format = store, plan, image_format
        self._watermark = None if watermark is None else Watermark(watermark)
        self._attempts = Attempts(store, "images")
        self._made = MadeUnits(store, anywhere=put_aside)
        self._people = IdentityStore(store)
        # One thread loads and generates, whichever threads call: OpenMP keeps a pool for each
        # thread that computes, with a count of its own, and with two pools on two cores both
        # sleep between operations instead of spinning. Callers encode and commit beside it. It
        # puts pictures aside itself and takes the next unit at once, with no thread to wait for;
        # by default one that encodes may keep the interpreter for ten times as long.
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._model = ThreadPoolExecutor(1, "generate", initializer=start)
        self._generators: dict[str, Generator] = self._model.submit(
            load_generators, names, local_preset(preset, options), device=device
        ).result()
        self._revisions = dict(plan.methods)
        self._encoders = ThreadPoolExecutor(4)

    def __call__(self, units: pa.Table) -> pa.Table:
        unit = unit_of(units, "images")
        done = read_unit(self._store, "images", unit)
        if done is None:
            rows = self._plan.table(unit).to_pylist()
            people = self._people.get(key for row in rows for key in people_of(row))
            with contextlib.ExitStack() as marks:
                turn = self._model.submit(self._take_turn, unit, rows, people, marks)
                attempt, made = turn.result()
                if self._made.used:
                    attempt.made()
                pictures, rejects = self._encode(rows, made)
                done = commit_unit(
                    self._store, "images", unit, pictures, IMAGES, rejects, row_group_size=64
                )
            self._made.drop(unit)
            if rows:
                for status, number in (("ok", len(pictures)), ("rejected", len(rejects))):
                    labels = {"method": rows[0]["method"], "status": status}
                    count("infinite_id_pictures_total", number, **labels)
        return unit_block(done, unit)

    def _take_turn(
        self, unit: int, rows: Sequence[_Row], people: _People, marks: contextlib.ExitStack
    ) -> tuple[Attempt, Made]:
        attempt = marks.enter_context(self._attempts.unit(unit))
        made = None if attempt.alone else self._made.find(unit)
        if made is None:
            if attempt.alone:
                made = self._one_by_one(rows, people, attempt)
            else:
                made = self._generate(rows, people, range(len(rows)))
            self._made.keep(unit, made)
        return attempt, made

    def _one_by_one(self, rows: Sequence[_Row], people: _People, attempt: Attempt) -> Made:
        made = Made()
        for number, (row, allowed) in enumerate(attempt.rows(rows)):
            if allowed:
                one = self._generate(rows, people, range(number, number + 1))
                # Once while the row's mark stands: it may be what kills.
                self._encode(rows, one)
            else:
                one = Made(rejects=[reject_row("images", row["sample_id"], *KILLED)])
            made = made + one
        return made

    def _generate(self, rows: Sequence[_Row], people: _People, numbers: range) -> Made:
        if not numbers:
            return Made()
        asked = [rows[number] for number in numbers]
        generator = self._generators[asked[0]["method"]]
        try:
            requests = [request_from_row(row) for row in asked]
            begin = time.perf_counter()
            images = generator.generate(requests, people)
            seconds = time.perf_counter() - begin
        except CancelledError:
            raise
        except Exception as error:
            if len(asked) == 1 or is_fatal(error, alone=False):
                return Made(rejects=[_refusal(asked[0], error)])
        else:
            observe("infinite_id_batch_seconds", seconds, method=asked[0]["method"])
            arrays = [made.image for made in images]
            return Made(list(numbers), arrays, [seconds / len(asked)] * len(asked))
        # One bad request must not cost its batch mates their pictures: halve until it is alone.
        middle = len(asked) // 2
        first, second = numbers[:middle], numbers[middle:]
        return self._generate(rows, people, first) + self._generate(rows, people, second)

    def _encode(
        self, rows: Sequence[_Row], made: Made
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        asked = [rows[number] for number in made.numbers]
        encoded = [
            self._encoders.submit(self._encode_picture, row, image)
            for row, image in zip(asked, made.images, strict=True)
        ]
        pictures, rejects = [], list(made.rejects)
        for row, image, seconds, future in zip(
            asked, made.images, made.seconds, encoded, strict=True
        ):
            try:
                data = future.result()
            except Exception as error:
                rejects.append(_refusal(row, error))
                continue
            travels = self._people.row(people_of(row)[0])
            pictures.append(
                {
                    **{name: row[name] for name in (*_KEYS, "prompt")},
                    "image": data,
                    "format": self._format,
                    "height": image.shape[0],
                    "width": image.shape[1],
                    "seconds": seconds,
                    "model_revision": self._revisions[row["method"]],
                    **{name: travels[name] for name in PROVENANCE},
                }
            )
        return pictures, rejects

    def _encode_picture(self, row: _Row, image: NDArray[np.uint8]) -> bytes:
        if self._watermark is not None:
            image = self._watermark.embed(image)
        names = ("sample_id", "method", "prompt", "negative_prompt", "seed")
        provenance = Provenance(
            model_revision=self._revisions[row["method"]], **{name: row[name] for name in names}
        )
        return encode_image(image, self._format, provenance=provenance)


def _refusal(row: _Row, error: Exception) -> dict[str, Any]:
    """The row of `rejects` for a request that raised; errors that are not its own are raised."""
    if is_fatal(error, alone=True):
        raise error
    reason = "refused" if isinstance(error, ValueError) else "failed"
    return reject_row("images", row["sample_id"], reason, f"{type(error).__name__}: {error}")


class ScoringActor:
    """Pictures of a unit -> scores; commits `scores`.

    Its networks are loaded when the first pictures come: until then a machine of few cores has
    generation actors to load, and there is nothing to score.

    Args:
        store: the run folder.
        plan: the request plan, which knows the parts of a mix.
        metrics: names, see `eval.suite`; None for the default ones.
        preset_name: decides which text and image scorer is used.
        threads: that find and embed faces.
    """

    def __init__(
        self,
        store: Store,
        plan: UnitPlan,
        metrics: Sequence[str] | None,
        preset_name: str,
        *,
        threads: int = 1,
    ) -> None:
        self._store = store
        self._attempts = Attempts(store, "scores")
        self._wanted = (metrics, preset_name, threads)
        self._loaded = False
        self._people = IdentityStore(store)
        self._parts = {
            subject.identity_id: [part["identity_id"] for part in subject.mix_parts]
            for subject in plan.subjects
            if subject.mix_parts
        }
        # The words that a style adds, which a style score reads; the prompt holds them too.
        self._style_words = {text.style: text.suffix or text.style for text in plan.texts}

    def load(self) -> None:
        """Loads the networks and writes down what their scores mean: before the first unit."""
        from eval.suite import load_suite

        metrics, preset_name, threads = self._wanted
        self._suite = load_suite(metrics, preset_name, threads=threads)
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
            table, rejects = self._measure(rows, attempt)
            commit_unit(self._store, "scores", unit, table, self._schema, rejects)
        return pa.table(
            {
                "unit": [unit],
                "pictures": [len(rows)],
                "generate_seconds": [float(sum(row["seconds"] for row in rows))],
                "score_seconds": [time.perf_counter() - begin],
            }
        )

    def _people_in(self, row: Mapping[str, Any]) -> list[str]:
        return self._parts.get(row["identity_id"], [row["identity_id"]])

    def _measure(
        self, rows: list[dict[str, Any]], attempt: Attempt
    ) -> tuple[pa.Table, list[dict[str, Any]]]:
        tables, rejects = [self._schema.empty_table()], []
        if rows and not attempt.alone:
            return self._score(rows), []
        for row, allowed in attempt.rows(rows):
            if allowed:
                tables.append(self._score([row]))
            else:
                tables.append(self._unscorable(row))
                rejects.append(reject_row("scores", row["sample_id"], *KILLED))
        return pa.concat_tables(tables), rejects

    def _unscorable(self, row: Mapping[str, Any]) -> pa.Table:
        values = {
            field.name: math.nan if pa.types.is_floating(field.type) else None
            for field in self._schema
        }
        keys = {name: row[name] for name in _KEYS}
        return pa.Table.from_pylist([{**values, **keys}], schema=self._schema)

    def _batch(self, rows: list[dict[str, Any]]) -> PictureBatch:
        references = []
        for row in rows:
            keys = self._people_in(row)
            people = self._people.get(keys)
            references.append([image for key in keys for image in people[key].images])
        return self._suite.batch(
            [decode_image(row["image"]) for row in rows],
            [row["prompt"] for row in rows],
            references,
            [self._style_words[row["style"]] for row in rows],
        )

    def _score(self, rows: list[dict[str, Any]]) -> pa.Table:
        columns = self._suite.measure(self._batch(rows))
        own = {name: [row[name] for row in rows] for name in _KEYS}
        return pa.table({**own, **columns}, schema=self._schema)
