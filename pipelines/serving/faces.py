"""Photos in, an embedded person out. The photos themselves are kept only where that is asked."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinite_id.config import Preset
from infinite_id.faces.detection import FaceError
from infinite_id.faces.photo_faces import photo_faces
from infinite_id.faces.photos import PhotoError, PhotoLimits, decode_photo
from infinite_id.faces.upright import stand_upright
from infinite_id.types import FaceRecord, Identity
from pipelines.serving.errors import ServiceError
from pipelines.serving.people import Person
from pipelines.tables.people import embedding_digest
from pipelines.tables.pictures import encode_image

__all__ = ["FaceStage", "described"]


class FaceStage:
    """Photos -> person, by the networks of the offline pipeline. One thread at a time."""

    def __init__(self, preset: Preset, limits: PhotoLimits, min_face: float) -> None:
        from infinite_id.identity.encoders import load_identity_encoder

        self._encoder = load_identity_encoder(preset.encoders)
        self._limits, self._min_face = limits, min_face

    def embed(
        self,
        photos: Sequence[bytes],
        face: Any,
        class_word: str,
        owner: str,
        keep_photos: bool = False,
    ) -> Person:
        """One person of one or more photos.

        Args:
            photos: bytes of image files.
            face: "single", "largest", or the face's number from left to right.
            class_word: what {subject} becomes.
            owner: the key that may use the person.
            keep_photos: the person carries the photos, upright and without their metadata.

        Raises:
            ServiceError: 422, a photo or its face cannot be used.
        """
        key = f"id_{secrets.token_hex(16)}"
        records, kept = [], []
        for number, photo in enumerate(photos):
            try:
                image = decode_photo(photo, self._limits)
                found, aligned = self._find(image, face)[0]
            except PhotoError as error:
                raise _refused(error, number, len(photos)) from None
            except FaceError as error:
                raise self._no_face(error, image, number, len(photos)) from None
            if keep_photos:
                upright, _ = stand_upright(image, found)
                kept.append(encode_image(upright, "jpeg", generated=False))
            records.append(
                FaceRecord(
                    key,
                    f"{key}/{number}",
                    found.bbox,
                    found.landmarks,
                    found.det_score,
                    aligned,
                )
            )
        aligned_faces = tuple(record.aligned for record in records)
        embedding = self._encoder.embed(aligned_faces)
        identity = Identity(key, aligned_faces, embedding, class_word)
        digest = embedding_digest(embedding)
        return Person(identity, tuple(records), digest, owner, tuple(kept))

    def _find(self, image: NDArray[np.uint8], select: Any) -> Any:
        # A stranger's photo without a face must not cost seconds.
        return photo_faces(
            image, self._encoder.faces, select=select, min_face=self._min_face, finer=False
        )

    def _no_face(
        self, error: FaceError, image: NDArray[np.uint8], number: int, count: int
    ) -> ServiceError:
        """With the faces to choose from, where there are several."""
        refusal = _refused(error, number, count)
        if error.reason in ("several_faces", "face_index"):
            found = self._find(image, "all")
            faces = [described(face.bbox, face.det_score, crop) for face, crop in found]
            refusal.details = {"photo": number, "faces": faces}
        return refusal


def described(bbox: NDArray[np.float32], score: float, crop: NDArray[np.uint8]) -> dict[str, Any]:
    """A face for clients: its box in pixels of the photo, the detector's score, a PNG."""
    return {
        "bbox": [round(float(value), 1) for value in bbox],
        "score": score,
        "crop_png": base64.b64encode(encode_image(crop, generated=False)).decode(),
    }


def _refused(error: PhotoError | FaceError, number: int, count: int) -> ServiceError:
    which = "The photo" if count == 1 else f"Photo {number + 1} of {count}"
    return ServiceError(422, error.reason, f"{which} cannot be used: {error}.")
