"""The actors of the people phase: photos -> aligned faces -> one embedding a person.

Plain classes like those of `pipelines.stages.generation`: they never import Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from eval.places import StorageError
from infinite_id.config import Preset
from pipelines.plan.weights import local_encoders, local_weights
from pipelines.run.attempts import KILLED, Attempt, Attempts
from pipelines.run.units import commit_unit, read_unit, unit_block, unit_of
from pipelines.stages.agreement import agreement
from pipelines.stages.device import check_device
from pipelines.tables.addresses import read_uri
from pipelines.tables.people import embedding_digest
from pipelines.tables.photo_column import name_of
from pipelines.tables.pictures import decode_image, encode_image
from pipelines.tables.rejects import reject_row
from pipelines.tables.schemas import EMBEDDINGS, FACES, PROVENANCE
from pipelines.tables.storage import Store

__all__ = ["EmbeddingActor", "FaceActor"]


class FaceActor:
    """Photos of a unit of people -> aligned faces; commits `faces`.

    Args:
        store: the run folder.
        manifest: address of the identities manifest, Parquet.
        slices: of each unit: (row group, first row, rows) of that file.
        faces: "embedded" or an insightface pack name or folder.
        limits: `infinite_id.faces.photos.PhotoLimits` as keyword arguments.
        min_face: shortest side of a face's box in pixels.
        largest: take the largest face of a photo with several instead of refusing it.
        options: of file systems by scheme of photos and manifest.
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
        from infinite_id.faces.loading import load_face_backend
        from infinite_id.faces.photos import PhotoLimits

        self._store, self._manifest, self._slices = store, manifest, slices
        self._attempts = Attempts(store, "faces")
        self._options = dict(options or {})
        # No GPU is reserved for faces, whatever onnxruntime sees.
        self._backend = load_face_backend(
            local_weights(faces, self._options), providers=["CPUExecutionProvider"]
        )
        self._limits = PhotoLimits(**(limits or {}))
        self._min_face, self._largest = min_face, largest

    def __call__(self, units: pa.Table) -> pa.Table:
        unit = unit_of(units, "faces")
        done = read_unit(self._store, "faces", unit)
        if done is None:
            with self._attempts.unit(unit) as attempt:
                rows, rejects = self._find(unit, attempt)
                done = commit_unit(self._store, "faces", unit, rows, FACES, rejects)
        return unit_block(done, unit)

    def _find(
        self, unit: int, attempt: Attempt
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        rejects: list[dict[str, Any]] = []
        photos = (
            (person, photo, f"{person['identity_id']}/{number}")
            for person in self._people(unit)
            for number, photo in enumerate(person["photos"])
        )
        for (person, photo, image_id), allowed in attempt.rows(photos):
            key = person["identity_id"]
            if not allowed:
                rejects.append(reject_row("faces", key, *KILLED, image_id))
                continue
            try:
                rows.append(self._photo(person, photo, image_id))
            except StorageError as error:
                rejects.append(reject_row("faces", key, "unreachable", str(error), image_id))
            except ValueError as error:
                reason = getattr(error, "reason", "bad_photo")
                said = f"{name_of(photo) or image_id}: {error}"
                rejects.append(reject_row("faces", key, reason, said, image_id))
        return rows, rejects

    def _people(self, unit: int) -> list[dict[str, Any]]:
        store, name = Store.of_file(self._manifest, self._options)
        group, first, count = self._slices[unit]
        with store.parquet(name) as file:
            return file.read_row_group(group).slice(first, count).to_pylist()

    def _photo(
        self, person: Mapping[str, Any], photo: Mapping[str, Any], image_id: str
    ) -> dict[str, Any]:
        from infinite_id.faces.photo_faces import photo_faces
        from infinite_id.faces.photos import decode_photo

        data = photo["bytes"]
        if data is None:
            data = read_uri(photo["uri"], self._options)
        image = decode_photo(data, self._limits)
        index = person["face_index"]
        select: Any = index if index is not None else ("largest" if self._largest else "single")
        face, aligned = photo_faces(image, self._backend, select=select, min_face=self._min_face)[0]
        return {
            "identity_id": person["identity_id"],
            "image_id": image_id,
            "bbox": face.bbox.tolist(),
            "landmarks": face.landmarks.reshape(-1).tolist(),
            "det_score": face.det_score,
            "aligned": encode_image(aligned, generated=False),
            "photo_height": image.shape[0],
            "photo_width": image.shape[1],
            "turned": face.turned,
            "photo": name_of(photo),
            **{name: person[name] for name in PROVENANCE},
        }


class EmbeddingActor:
    """Aligned faces of a unit -> one embedding a person; commits `embeddings`.

    Args:
        store: the run folder.
        preset: model family.
        threads: of torch on the CPU.
        device: of torch, see `pipelines.stages.device.torch_device`.
        options: of the fsspec file system, should weights lie on one.
        held_out: last faces of each person that are kept from the embedding, for the judge to
            compare with; someone with too few keeps one face for the embedding.
        check: refuse photos that do not agree with the person's others, and a person of two such
            photos, instead of warning of them.
    """

    def __init__(
        self,
        store: Store,
        preset: Preset,
        *,
        threads: int = 1,
        held_out: int = 0,
        check: bool = False,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        import torch

        from infinite_id.identity.encoders import load_identity_encoder

        torch.set_num_threads(threads)
        self._store, self._held_out, self._check = store, held_out, check
        self._attempts = Attempts(store, "embeddings")
        check_device(device)
        encoders = local_encoders(preset.encoders, options)
        self._encoder = load_identity_encoder(encoders, device=device)

    def __call__(self, faces: pa.Table) -> pa.Table:
        unit = unit_of(faces, "embeddings")
        done = read_unit(self._store, "embeddings", unit)
        if done is None:
            with self._attempts.unit(unit) as attempt:
                rows, rejects = self._embed(faces, attempt)
                done = commit_unit(
                    self._store, "embeddings", unit, rows, EMBEDDINGS, rejects, row_group_size=64
                )
        return pa.table({"unit": [unit], "people": [done.num_rows]})

    def _embed(
        self, faces: pa.Table, attempt: Attempt
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        people: dict[str, list[dict[str, Any]]] = {}
        for row in faces.to_pylist():
            if row["identity_id"] is not None:
                people.setdefault(row["identity_id"], []).append(row)
        groups = list(people.values())
        if not attempt.alone:
            return self._rows(groups)
        made: list[dict[str, Any]] = []
        rejects: list[dict[str, Any]] = []
        for group, allowed in attempt.rows(groups):
            if allowed:
                rows, refused = self._rows([group])
                made += rows
                rejects += refused
            else:
                rejects.append(reject_row("embeddings", group[0]["identity_id"], *KILLED))
        return made, rejects

    def _rows(
        self, people: list[list[dict[str, Any]]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        rejects: list[dict[str, Any]] = []
        kept: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []
        for group in people:
            faces, told = self._agreeing(group, rejects)
            if faces:
                kept.append((faces[: max(1, len(faces) - self._held_out)], told))
        crops = [[decode_image(face["aligned"]) for face in faces] for faces, _ in kept]
        embeddings = self._encoder.embed_many(crops) if crops else []
        rows = [
            {**self._row(faces, made), **told}
            for (faces, told), made in zip(kept, embeddings, strict=True)
        ]
        return rows, rejects

    def _agreeing(
        self, faces: list[dict[str, Any]], rejects: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The faces to embed, none of a person that is refused, and the warning's columns."""
        if len(faces) == 1:
            return faces, {"agreement": None, "warning": None}
        key = faces[0]["identity_id"]
        names = [face["photo"] or face["image_id"] for face in faces]
        crops = [decode_image(face["aligned"]) for face in faces]
        features = self._encoder.faces.embed(np.stack(crops))
        found = agreement(key, names, features, check=self._check)
        for place, (number, sentence) in enumerate(found.odd, start=1):
            # Where nobody is left, the last reject is the person's and not a photo's.
            whole = not found.kept and place == len(found.odd)
            image_id = None if whole else faces[number]["image_id"]
            rejects.append(reject_row("embeddings", key, "photos_disagree", sentence, image_id))
        kept = [faces[number] for number in found.kept]
        return kept, {"agreement": found.lowest, "warning": found.warning}

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
            **{name: faces[0][name] for name in PROVENANCE},
        }
