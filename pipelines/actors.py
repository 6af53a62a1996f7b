"""The actors: plain classes that hold a model and map one unit's table to the next.

They never import Ray, so the same classes run in Ray Data pools, in Ray Serve replicas, in a loop
in a test. The model is loaded in the constructor, on the worker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infinite_id.config import Preset
from infinite_id.types import (
    CancelledError,
    GeneratedImage,
    GenerationRequest,
    Generator,
    Identity,
    IdentityMix,
)
from pipelines.digests import embedding_digest
from pipelines.identities import IdentityStore
from pipelines.images import Provenance, decode_image, encode_image
from pipelines.metrics import count, observe
from pipelines.plan import UnitPlan
from pipelines.schemas import EMBEDDINGS, FACES, IMAGES, SAMPLE_KEYS, scores_schema
from pipelines.storage import StorageError, Store, read_uri
from pipelines.units import commit_unit, read_unit, reject_row, unit_of
from pipelines.watermark import Watermark
from pipelines.weights_cache import local_preset

if TYPE_CHECKING:
    from eval.metrics import PictureBatch

__all__ = [
    "EmbeddingActor",
    "FaceActor",
    "GenerationActor",
    "ScoringActor",
    "request_from_row",
]

_PROVENANCE = ("class_word", "consent", "licence", "source")
_KEYS = [field.name for field in SAMPLE_KEYS]


def _with_unit(table: pa.Table, unit: int) -> pa.Table:
    return table.append_column("unit", pa.array([unit] * table.num_rows, type=pa.int64()))


class FaceActor:
    """Photos of a unit of people -> aligned faces; commits `faces`.

    Args:
        store: the run folder.
        manifest: address of the identities manifest, Parquet.
        slices: of each unit: (row group, first row, rows) of that file.
        faces: "embedded" or an insightface pack name or folder.
        limits: `infinite_id.photos.PhotoLimits` as keyword arguments.
        min_face: shortest side of a face's box in pixels.
        largest: take the largest face of a photo with several instead of refusing it.
        options: of the fsspec file system of photos and manifest.
    """

    def __init__(
        self,
        store: Store,
        manifest: str,
        slices: Sequence[tuple[int, int, int]],
        faces: str,
        *,
        limits: Mapping[str, int] | None = None,
        min_face: float = 20.0,
        largest: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        from infinite_id.faces import load_face_backend
        from infinite_id.photos import PhotoLimits

        self._store, self._manifest, self._slices = store, manifest, slices
        self._options = dict(options or {})
        self._backend = load_face_backend(faces)
        self._limits = PhotoLimits(**(limits or {}))
        self._min_face, self._largest = min_face, largest

    def __call__(self, units: pa.Table) -> pa.Table:
        unit = unit_of(units, "faces")
        done = read_unit(self._store, "faces", unit)
        if done is None:
            rows: list[dict[str, Any]] = []
            rejects: list[dict[str, Any]] = []
            for person in self._people(unit):
                self._person(person, rows, rejects)
            done = commit_unit(self._store, "faces", unit, rows, FACES, rejects)
        # A unit without a face still goes on: the next stage marks it as done.
        if done.num_rows == 0:
            done = pa.Table.from_pylist([{}], schema=_nullable(FACES))
        return _with_unit(done, unit)

    def _people(self, unit: int) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        folder, _, name = self._manifest.rpartition("/")
        store = Store(folder, self._options)
        group, first, count = self._slices[unit]
        with store.fs.open(store.path(name), "rb") as file:
            return pq.ParquetFile(file).read_row_group(group).slice(first, count).to_pylist()

    def _person(
        self, person: Mapping[str, Any], rows: list[dict[str, Any]], rejects: list[dict[str, Any]]
    ) -> None:
        key = person["identity_id"]
        for number, photo in enumerate(person["photos"]):
            image_id = f"{key}/{number}"
            try:
                rows.append(self._photo(person, photo, image_id))
            except StorageError as error:
                rejects.append(reject_row("faces", key, "unreachable", str(error), image_id))
            except ValueError as error:
                reason = getattr(error, "reason", "bad_photo")
                rejects.append(reject_row("faces", key, reason, str(error), image_id))

    def _photo(
        self, person: Mapping[str, Any], photo: Mapping[str, Any], image_id: str
    ) -> dict[str, Any]:
        from infinite_id.faces import find_faces
        from infinite_id.photos import decode_photo

        data = photo["bytes"]
        if data is None:
            data = read_uri(photo["uri"], self._options)
        image = decode_photo(data, self._limits)
        index = person["face_index"]
        select: Any = index if index is not None else ("largest" if self._largest else "single")
        face, aligned = find_faces(image, self._backend, select=select, min_face=self._min_face)[0]
        return {
            "identity_id": person["identity_id"],
            "image_id": image_id,
            "bbox": face.bbox.tolist(),
            "landmarks": face.landmarks.reshape(-1).tolist(),
            "det_score": face.det_score,
            "aligned": encode_image(aligned, generated=False),
            "photo_height": image.shape[0],
            "photo_width": image.shape[1],
            **{name: person[name] for name in _PROVENANCE},
        }


class EmbeddingActor:
    """Aligned faces of a unit -> one embedding a person; commits `embeddings`.

    Args:
        store: the run folder.
        preset: model family.
        threads: of torch on the CPU.
        held_out: last faces of each person that are kept from the embedding, for the judge to
            compare with; someone with too few keeps one face for the embedding.
    """

    def __init__(
        self, store: Store, preset: Preset, *, threads: int = 1, held_out: int = 0
    ) -> None:
        import torch

        from infinite_id.encoders import load_identity_encoder

        torch.set_num_threads(threads)
        self._store, self._held_out = store, held_out
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._encoder = load_identity_encoder(preset.encoders, device=device)

    def __call__(self, faces: pa.Table) -> pa.Table:
        unit = unit_of(faces, "embeddings")
        done = read_unit(self._store, "embeddings", unit)
        if done is None:
            people: dict[str, list[dict[str, Any]]] = {}
            for row in faces.to_pylist():
                if row["identity_id"] is not None:
                    people.setdefault(row["identity_id"], []).append(row)
            people = {k: rows[: max(1, len(rows) - self._held_out)] for k, rows in people.items()}
            crops = [[decode_image(row["aligned"]) for row in rows] for rows in people.values()]
            embeddings = self._encoder.embed_many(crops) if crops else []
            rows = [
                self._row(group, embedding)
                for group, embedding in zip(people.values(), embeddings, strict=True)
            ]
            done = commit_unit(self._store, "embeddings", unit, rows, EMBEDDINGS, row_group_size=64)
        return pa.table({"unit": [unit], "people": [done.num_rows]})

    def _row(self, faces: list[dict[str, Any]], embedding: Any) -> dict[str, Any]:
        clip = np.ascontiguousarray(embedding.clip, dtype="<f2")
        return {
            "identity_id": faces[0]["identity_id"],
            "face": embedding.face.tolist(),
            "clip": clip.tobytes(),
            "clip_tokens": clip.shape[0],
            "clip_width": clip.shape[1],
            "revision": embedding.revision,
            "digest": embedding_digest(embedding),
            "aligned": [face["aligned"] for face in faces],
            **{name: faces[0][name] for name in _PROVENANCE},
        }


def request_from_row(row: Mapping[str, Any]) -> GenerationRequest:
    """A `requests` row as the record that generators take."""
    mix = None
    if row["mix_parts"]:
        parts = tuple((part["identity_id"], part["weight"]) for part in row["mix_parts"])
        mix = IdentityMix(parts, row["mix_mode"])
    names = GenerationRequest.__dataclass_fields__
    return GenerationRequest(**{name: row[name] for name in names if name != "mix"}, mix=mix)


def people_of(row: Mapping[str, Any]) -> list[str]:
    """Keys of the people that a `requests` row shows: one, or a mix's parts."""
    if row["mix_parts"]:
        return [part["identity_id"] for part in row["mix_parts"]]
    return [row["identity_id"]]


class GenerationActor:
    """Units of the request plan -> pictures; commits `images`.

    Two threads may call it at once: one generates while the other encodes and commits.

    Args:
        store: the run folder.
        plan: the request plan.
        preset: model family.
        image_format: png, webp or jpeg.
        watermark: text that every picture carries invisibly, None for none.
        device: "auto" takes a GPU where there is one.
        threads: of torch on the CPU.
        options: of the fsspec file system, should weights lie on one.
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
    ) -> None:
        import torch

        from infinite_id.methods import load_generators

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._store, self._plan, self._format = store, plan, image_format
        self._watermark = None if watermark is None else Watermark(watermark)
        self._people = IdentityStore(store)
        # One thread loads and generates, whichever threads call: OpenMP keeps a pool for each
        # thread that computes, with a count of its own, and with two pools on two cores both
        # sleep between operations instead of spinning. Callers encode and commit beside it.
        self._model = ThreadPoolExecutor(
            1, "generate", initializer=torch.set_num_threads, initargs=(threads,)
        )
        names = [name for name, _ in plan.methods]
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
            pictures, rejects = self._generate(rows)
            done = commit_unit(
                self._store, "images", unit, pictures, IMAGES, rejects, row_group_size=64
            )
            if rows:
                for status, made in (("ok", pictures), ("rejected", rejects)):
                    labels = {"method": rows[0]["method"], "status": status}
                    count("infinite_id_pictures_total", len(made), **labels)
        if done.num_rows == 0:
            done = pa.Table.from_pylist([{}], schema=_nullable(IMAGES))
        return _with_unit(done, unit)

    def _generate(
        self, rows: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if not rows:
            return [], []
        people = self._people.get(key for row in rows for key in people_of(row))
        generator = self._generators[rows[0]["method"]]
        try:
            return self._batch(generator, rows, people), []
        except CancelledError:
            raise
        except Exception as error:
            if _is_fatal(error):
                raise
            if len(rows) == 1:
                reason = "refused" if isinstance(error, ValueError) else "failed"
                message = f"{type(error).__name__}: {error}"
                return [], [reject_row("images", rows[0]["sample_id"], reason, message)]
        # One bad request must not cost its batch mates their pictures: halve until it is alone.
        middle = len(rows) // 2
        first, second = self._generate(rows[:middle]), self._generate(rows[middle:])
        return first[0] + second[0], first[1] + second[1]

    def _batch(
        self,
        generator: Generator,
        rows: list[dict[str, Any]],
        people: Mapping[str, Identity],
    ) -> list[dict[str, Any]]:
        requests = [request_from_row(row) for row in rows]
        images, batch_seconds = self._model.submit(_timed, generator, requests, people).result()
        observe("infinite_id_batch_seconds", batch_seconds, method=rows[0]["method"])
        encoded = self._encoders.map(self._encode, rows, images)
        out = []
        for row, made, data in zip(rows, images, encoded, strict=True):
            travels = self._people.row(people_of(row)[0])
            out.append(
                {
                    **{name: row[name] for name in (*_KEYS, "prompt")},
                    "image": data,
                    "format": self._format,
                    "height": made.image.shape[0],
                    "width": made.image.shape[1],
                    "seconds": batch_seconds / len(rows),
                    "model_revision": self._revisions[row["method"]],
                    **{name: travels[name] for name in _PROVENANCE},
                }
            )
        return out

    def _encode(self, row: Mapping[str, Any], made: GeneratedImage) -> bytes:
        image = made.image if self._watermark is None else self._watermark.embed(made.image)
        names = ("sample_id", "method", "prompt", "negative_prompt", "seed")
        provenance = Provenance(
            model_revision=self._revisions[row["method"]], **{name: row[name] for name in names}
        )
        return encode_image(image, self._format, provenance=provenance)


def _timed(
    generator: Generator, requests: Sequence[GenerationRequest], people: Mapping[str, Identity]
) -> tuple[list[GeneratedImage], float]:
    begin = time.perf_counter()
    return generator.generate(requests, people), time.perf_counter() - begin


def _is_fatal(error: Exception) -> bool:
    """Errors of the place and not of the request: a full disk, a broken GPU."""
    return isinstance(error, (StorageError, MemoryError)) or "CUDA" in str(error)


class ScoringActor:
    """Pictures of a unit -> scores; commits `scores`.

    Args:
        store: the run folder.
        plan: the request plan, which knows the parts of a mix.
        metrics: names, see `eval.suite`; None for the default ones.
        preset_name: decides which text and image scorer is used.
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
        from eval.suite import load_suite

        self._store = store
        self._suite = load_suite(metrics, preset_name, threads=threads)
        self._people = IdentityStore(store)
        self._parts = {
            subject.identity_id: [part["identity_id"] for part in subject.mix_parts]
            for subject in plan.subjects
            if subject.mix_parts
        }
        self._schema = scores_schema(list(self._suite.metrics))
        # The words that a style adds, which a style score reads; the prompt holds them too.
        self._style_words = {text.style: text.suffix or text.style for text in plan.texts}
        described = {name: info.as_dict() for name, info in self._suite.metrics.items()}
        store.write_bytes("metrics.json", json.dumps(described, indent=2).encode())

    def __call__(self, images: pa.Table) -> pa.Table:
        unit = unit_of(images, "scores")
        rows = [row for row in images.to_pylist() if row["sample_id"] is not None]
        begin = time.perf_counter()
        if rows:
            table = self._score(rows)
            commit_unit(self._store, "scores", unit, table, self._schema)
        else:
            commit_unit(self._store, "scores", unit, [], self._schema)
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


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(f.name, f.type) for f in schema])
