"""The actor that makes pictures: it holds a model and maps one unit's requests to pictures.

It never imports Ray, so the same class runs in Ray Data pools, in Ray Serve replicas, in a loop
in a test. The model is loaded in the constructor, on the worker.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infinite_id.config import Preset
from infinite_id.faces.photos import PhotoLimits
from infinite_id.provenance import Provenance
from infinite_id.types import (
    CancelledError,
    GeneratedImage,
    GenerationRequest,
    Generator,
    Identity,
    RefusedRequestsError,
)
from pipelines.plan.requests import UnitPlan, people_of, request_from_row
from pipelines.plan.weights import local_preset
from pipelines.run.attempts import KILLED, Attempt, Attempts
from pipelines.run.counters import count, observe
from pipelines.run.failures import is_fatal
from pipelines.run.units import commit_unit, read_unit, unit_block, unit_of
from pipelines.stages.device import check_device
from pipelines.stages.watermark import Watermark
from pipelines.tables.people import IdentityStore, provenance_of
from pipelines.tables.pictures import encode_image
from pipelines.tables.prompt_pictures import PictureError, PictureReader
from pipelines.tables.rejects import reject_row
from pipelines.tables.schemas import IMAGES, SAMPLE_KEYS
from pipelines.tables.storage import Store

__all__ = [
    "GenerationActor",
]

_KEYS = [field.name for field in SAMPLE_KEYS]
_SWITCH_SECONDS = 0.0005


_Row = Mapping[str, Any]


_People = Mapping[str, Identity]


@dataclass(slots=True)
class _Batch:
    """What became of the rows of a unit.

    Attributes:
        numbers: of the rows that have a picture, within the unit.
        made: theirs.
        seconds: theirs, wall seconds of the batch divided by its size.
        rejects: rows of `rejects` for the others.
    """

    numbers: list[int] = field(default_factory=list)
    made: list[GeneratedImage] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def __add__(self, other: _Batch) -> _Batch:
        return _Batch(
            self.numbers + other.numbers,
            self.made + other.made,
            self.seconds + other.seconds,
            self.rejects + other.rejects,
        )


class GenerationActor:
    """Units of the request plan -> pictures; commits `images`.

    Two threads may call it at once: one generates while the other encodes and commits. A kill costs
    the units in both hands.

    Args:
        store: the run folder.
        plan: the request plan.
        preset: model family.
        image_format: png, webp or jpeg.
        watermark: text that every picture carries invisibly, None for none.
        device: of torch, see `pipelines.stages.stage.torch_device`.
        threads: of torch on the CPU.
        max_pixels: of the pictures of prompts; None: `PhotoLimits`' own.
        options: of file systems by scheme, should weights or pictures lie on one.
    """

    def __init__(
        self,
        store: Store,
        plan: UnitPlan,
        preset: Preset,
        *,
        image_format: str = "png",
        watermark: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        max_pixels: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        from infinite_id.methods import METHODS, load_generators

        names = [name for name, _ in plan.methods]
        start: Callable[[], None] | None = None
        # A generator without a model spares the seconds that torch takes to import.
        if any(METHODS[name].computes for name in names):
            import torch

            start = partial(torch.set_num_threads, threads)
            check_device(device)
        self._store, self._plan, self._format = store, plan, image_format
        self._watermark = None if watermark is None else Watermark(watermark)
        self._attempts = Attempts(store, "images")
        self._people = IdentityStore(store)
        # The plan has addresses as they are; rows of `requests` have them without passwords.
        self._texts = {text.prompt_id: text for text in plan.texts}
        limits = None if max_pixels is None else PhotoLimits(max_pixels)
        self._pictures = PictureReader(limits, options)
        # One thread loads and generates, whichever threads call: OpenMP keeps a pool for each
        # thread that computes, with a count of its own, and with two pools on two cores both
        # sleep between operations instead of spinning. Callers encode and commit beside it; by
        # default one that encodes may keep the interpreter for ten times as long.
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._model = ThreadPoolExecutor(1, "generate", initializer=start)
        self._generators: dict[str, Generator] = self._model.submit(
            load_generators, names, local_preset(preset, options), device=device
        ).result()
        self._revisions, self._detailed = dict(plan.methods), preset.details is not None
        self._encoders = ThreadPoolExecutor(4)

    def __call__(self, units: pa.Table) -> pa.Table:
        unit = unit_of(units, "images")
        done = read_unit(self._store, "images", unit)
        if done is None:
            rows = self._plan.table(unit).to_pylist()
            people = self._people.get(key for row in rows for key in people_of(row))
            with self._attempts.unit(unit) as attempt:
                batch = self._model.submit(self._make, rows, people, attempt).result()
                pictures, rejects = self._encode(rows, batch)
                done = commit_unit(
                    self._store, "images", unit, pictures, IMAGES, rejects, row_group_size=64
                )
            if rows:
                for status, number in (("ok", len(pictures)), ("rejected", len(rejects))):
                    labels = {"method": rows[0]["method"], "status": status}
                    count("infinite_id_pictures_total", number, **labels)
        return unit_block(done, unit)

    def _make(self, rows: Sequence[_Row], people: _People, attempt: Attempt) -> _Batch:
        if not attempt.alone:
            return self._generate(rows, people, range(len(rows)))
        batch = _Batch()
        for number, (row, allowed) in enumerate(attempt.rows(rows)):
            if allowed:
                one = self._generate(rows, people, range(number, number + 1))
                # Once while the row's mark stands: it may be what kills.
                self._encode(rows, one)
            else:
                one = _Batch(rejects=[reject_row("images", row["sample_id"], *KILLED)])
            batch = batch + one
        return batch

    def _generate(self, rows: Sequence[_Row], people: _People, numbers: Sequence[int]) -> _Batch:
        if not numbers:
            return _Batch()
        asked = [rows[number] for number in numbers]
        generator = self._generators[asked[0]["method"]]
        try:
            requests = [self._request(row) for row in asked]
            begin = time.perf_counter()
            made = generator.generate(requests, people)
            seconds = time.perf_counter() - begin
        except CancelledError:
            raise
        except RefusedRequestsError as error:
            faults = error.faults
            rejects = [_refusal(asked[n], ValueError(told)) for n, told in faults.items()]
            left = [number for n, number in enumerate(numbers) if n not in faults]
            return _Batch(rejects=rejects) + self._generate(rows, people, left)
        except Exception as error:
            if len(asked) == 1 or is_fatal(error, alone=False):
                return _Batch(rejects=[_refusal(asked[0], error)])
        else:
            observe("infinite_id_batch_seconds", seconds, method=asked[0]["method"])
            return _Batch(list(numbers), made, [seconds / len(asked)] * len(asked))
        # One bad request must not cost its batch mates their pictures: halve until it is alone.
        middle = len(asked) // 2
        first, second = numbers[:middle], numbers[middle:]
        return self._generate(rows, people, first) + self._generate(rows, people, second)

    def _request(self, row: _Row) -> GenerationRequest:
        request, text = request_from_row(row), self._texts.get(row["prompt_id"])
        size = (request.height, request.width)
        if text is not None and text.picture is not None:
            request = replace(request, init_image=self._pictures.begun(text.picture, *size))
        if text is not None and text.control is not None:
            request = replace(request, control_image=self._pictures.held(text.control, *size))
        return request

    def _encode(
        self, rows: Sequence[_Row], batch: _Batch
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        asked = [rows[number] for number in batch.numbers]
        encoded = [
            self._encoders.submit(self._encode_picture, row, made.image)
            for row, made in zip(asked, batch.made, strict=True)
        ]
        pictures, rejects = [], list(batch.rejects)
        for row, made, seconds, future in zip(
            asked, batch.made, batch.seconds, encoded, strict=True
        ):
            try:
                data = future.result()
            except Exception as error:
                rejects.append(_refusal(row, error))
                continue
            travels = provenance_of([self._people.row(key) for key in people_of(row)])
            pictures.append(
                {
                    **{name: row[name] for name in (*_KEYS, "prompt")},
                    "image": data,
                    "format": self._format,
                    "height": made.image.shape[0],
                    "width": made.image.shape[1],
                    "seconds": seconds,
                    "model_revision": self._revisions[row["method"]],
                    "details": made.details if self._detailed else None,
                    "regions": _regions(made),
                    **travels,
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


def _regions(made: GeneratedImage) -> list[list[float]] | None:
    return None if made.regions is None else [[float(side) for side in box] for box in made.regions]


def _refusal(row: _Row, error: Exception) -> dict[str, Any]:
    """The row of `rejects` for a request that raised; errors that are not its own are raised."""
    if is_fatal(error, alone=True):
        raise error
    reason = "refused" if isinstance(error, ValueError) else "failed"
    if isinstance(error, PictureError):
        reason = error.reason
    return reject_row("images", row["sample_id"], reason, f"{type(error).__name__}: {error}")
