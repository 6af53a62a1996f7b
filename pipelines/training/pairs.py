"""Training data by Ray Data: photos of people -> pairs of an identity photo and a target.

Input: Parquet with `identity_id`, `image` (encoded bytes, or a struct with `bytes`) and optionally
`caption`. Output, in the `pairs` folder: what a training step reads, computed once: latents of the
target, embeddings of ANOTHER photo of the same person. Where a person has one photo, the other is
a changed view of it. Photos that cannot be used become rows with a `reject` and no pair. Where the
photos of a person do not agree, a `warning` says so, or they are such rows where that is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infinite_id.config import Preset
from infinite_id.names import name_fault
from infinite_id.types import IdentityEmbedding
from pipelines.plan.weights import local_preset
from pipelines.stages.agreement import agreement
from pipelines.stages.device import check_device

__all__ = ["PAIRS", "PairActor", "pair_batch", "split_of_identity"]

PAIRS = pa.schema(
    [
        pa.field("identity_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train, validation, test
        pa.field("latents", pa.binary()),  # float16, (4, H / f, W / f), scaled for the UNet
        pa.field("face", pa.list_(pa.float32())),
        pa.field("clip", pa.binary()),  # float16, (clip_tokens, clip_width)
        pa.field("caption", pa.string()),
        pa.field("reject", pa.string()),  # why this photo gave no pair; null in pairs
        pa.field("warning", pa.string()),  # on the person, in their first row: photos do not agree
    ]
)

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Photo:
    """A usable photo: what it is called in sentences, the square target, the aligned face, what the
    encoders say of the face, and the caption."""

    name: str
    target: Picture
    aligned: Picture
    embedding: IdentityEmbedding
    caption: str | None


def split_of_identity(identity_id: str) -> str:
    """ "train" (90 %), "validation" or "test" (5 % each), by the person's key alone."""
    digest = hashlib.blake2b(identity_id.encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") % 20
    return {0: "test", 1: "validation"}.get(share, "train")


class PairActor:
    """All photos of one person -> that person's pairs.

    Args:
        preset: encoders, base and size.
        pairs_per_photo: most other photos that one target is paired with.
        largest: of several faces in a photo take the largest instead of refusing it.
        check: as of `pipelines.stages.agreement.agreement`.
        threads: of torch on a CPU.
        device: of torch, see `pipelines.stages.device.torch_device`.
        options: of the fsspec file system, should weights lie on one.
    """

    def __init__(
        self,
        preset: Preset,
        *,
        pairs_per_photo: int = 2,
        largest: bool = False,
        check: bool = False,
        threads: int = 1,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        import torch

        from infinite_id.base import load_base
        from infinite_id.identity.encoders import load_identity_encoder

        torch.set_num_threads(threads)
        check_device(device)
        self._device = device
        preset = local_preset(preset, options)
        self._preset, self._most, self._largest = preset, pairs_per_photo, largest
        self._check = check
        self._encoder = load_identity_encoder(preset.encoders, device=self._device)
        self._base = load_base(replace(preset, controlnet=None), device=self._device)

    def __call__(self, photos: pa.Table) -> pa.Table:
        key = photos["identity_id"][0].as_py() or ""
        if fault := name_fault(key):
            nobody = self._row(key, reject=f"bad_identity: identity_id is {key!r}, {fault}")
            return pa.Table.from_pylist([nobody] * len(photos), schema=PAIRS)
        rows: list[dict[str, Any]] = []
        kept: list[_Photo] = []
        for row in photos.to_pylist():
            try:
                target, aligned = self._photo(row["image"])
            except ValueError as error:
                reason = getattr(error, "reason", "bad_photo")
                rows.append(self._row(key, reject=f"{reason}: {error}"))
            else:
                embedding = self._encoder.embed([aligned])
                kept.append(
                    _Photo(_called(row["image"]), target, aligned, embedding, row.get("caption"))
                )
        if kept:
            kept, refused, warning = self._agreeing(key, kept)
            rows += refused
            if kept:
                rows += self._pairs(key, kept)
            rows[0]["warning"] = warning
        return pa.Table.from_pylist(rows, schema=PAIRS)

    def _agreeing(
        self, key: str, photos: list[_Photo]
    ) -> tuple[list[_Photo], list[dict[str, Any]], str | None]:
        """The photos to use, rows of the others, and the warning where photos do not agree."""
        names = [photo.name for photo in photos]
        features = np.stack([photo.embedding.face for photo in photos])
        found = agreement(key, names, features, check=self._check)
        # Of a person who is refused the last sentence is about both photos that were left.
        sentences = dict(found.odd)
        refused = [
            self._row(key, reject=f"photos_disagree: {sentences.get(number, found.odd[-1][1])}")
            for number in range(len(photos))
            if number not in found.kept
        ]
        return [photos[number] for number in found.kept], refused, found.warning

    def _photo(self, data: bytes | Mapping[str, Any] | None) -> tuple[Picture, Picture]:
        """The square target picture and the aligned face of one photo."""
        import cv2

        from infinite_id.faces.photo_faces import photo_faces
        from infinite_id.faces.photos import decode_photo
        from infinite_id.faces.upright import stand_upright

        # A mapping is how the library datasets has it.
        encoded = data["bytes"] if isinstance(data, Mapping) else data
        if encoded is None:
            raise ValueError("photo has no bytes, allowed: an encoded picture")
        image = decode_photo(encoded)
        select: Any = "largest" if self._largest else "single"
        face, aligned = photo_faces(image, self._encoder.faces, select=select)[0]
        image, face = stand_upright(image, face)
        height, width = image.shape[:2]
        side = min(height, width)
        centre = (face.bbox[:2] + face.bbox[2:]) / 2
        x = int(np.clip(centre[0] - side / 2, 0, width - side))
        y = int(np.clip(centre[1] - side / 2, 0, height - side))
        square = image[y : y + side, x : x + side]
        size = (self._preset.width, self._preset.height)
        method = cv2.INTER_AREA if side > size[0] else cv2.INTER_CUBIC
        target = cv2.resize(square, size, interpolation=method)
        return np.asarray(target, np.uint8), aligned

    def _pairs(self, identity_id: str, kept: list[_Photo]) -> list[dict[str, Any]]:
        faces = [photo.embedding for photo in kept]
        if len(kept) == 1:
            faces.append(self._encoder.embed([changed_view(kept[0].aligned, identity_id)]))
        encoded = self._base.encode_pictures([photo.target for photo in kept])
        latents = encoded.cpu().numpy().astype("<f2")
        return [
            self._row(
                identity_id,
                latents=latents[number].tobytes(),
                face=faces[other].face.tolist(),
                clip=np.ascontiguousarray(faces[other].clip, "<f2").tobytes(),
                caption=photo.caption,
            )
            for number, photo in enumerate(kept)
            for other in other_views(number, len(faces), self._most)
        ]

    @staticmethod
    def _row(identity_id: str, **values: Any) -> dict[str, Any]:
        empty = dict.fromkeys(PAIRS.names)
        return {
            **empty,
            "identity_id": identity_id,
            "split": split_of_identity(identity_id),
            **values,
        }


def _called(image: bytes | Mapping[str, Any]) -> str:
    """A photo's file where the library datasets wrote it, else the beginning of its SHA-256: rows
    come in another order than they stand in."""
    encoded = image["bytes"] if isinstance(image, Mapping) else image
    path = image.get("path") if isinstance(image, Mapping) else None
    return f"photo {path or 'sha256:' + hashlib.sha256(encoded).hexdigest()[:12]}"


def other_views(number: int, count: int, most: int) -> list[int]:
    """The views that photo `number` of `count` is paired with: the next ones, never itself."""
    return [(number + step) % count for step in range(1, count)][:most]


def changed_view(aligned: Picture, identity_id: str) -> Picture:
    """The same face in another light and slightly turned, for people with one photo only."""
    import cv2

    seed = int.from_bytes(hashlib.blake2b(identity_id.encode(), digest_size=4).digest(), "big")
    rng = np.random.default_rng(seed)
    size = aligned.shape[0]
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-8, 8), rng.uniform(0.95, 1.1))
    turned = cv2.warpAffine(aligned, turn, (size, size), borderMode=cv2.BORDER_REPLICATE)
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.92, 1.08, 3)
    return np.clip(turned * gain, 0, 255).astype(np.uint8)


def pair_batch(batch: Mapping[str, Any], preset: Preset, vae_factor: int) -> dict[str, Any]:
    """Rows of `PAIRS` as arrays: latents (B, C, h, w), face (B, F), clip (B, T, C), float32."""
    height, width = preset.height // vae_factor, preset.width // vae_factor
    tokens, clip_width = preset.encoders.clip_tokens, preset.encoders.clip_width

    def halves(column: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        rows = [np.frombuffer(data, "<f2").reshape(shape) for data in batch[column]]
        return np.stack(rows).astype(np.float32)

    return {
        "latents": halves("latents", (4, height, width)),
        "face": np.stack([np.asarray(face, np.float32) for face in batch["face"]]),
        "clip": halves("clip", (tokens, clip_width)),
        "caption": [text or "" for text in batch["caption"]],
    }
