"""The metrics of single pictures: columns of the scores table.

Each entry of `METRICS` says what it measures, with which network, and computes one value a
picture from a `PictureBatch`, in which faces and features are found once and shared. NaN means
that a picture cannot be scored; it is never replaced by a number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eval.judges.networks import Need, Networks
from eval.metric_info import MetricInfo
from infinite_id.faces.detection import Detection, FaceError, align_face
from infinite_id.faces.upright import find_upright_faces

__all__ = ["DEFAULT_METRICS", "METRICS", "Metric", "PictureBatch"]

Picture = NDArray[np.uint8]
Scores = NDArray[np.float32]

# Shorter side of a face's box, as a part of the picture's: below it nobody is recognised.
MIN_FACE = 0.08
# Long sides at which faces are looked for: 64 px pictures do best at 256, scenes need 640.
SMALL_PICTURE = 128
SMALL_SIZES = (256, 512)
LARGE_SIZES = (640, 1280)
# A generated face is turned for the judge only where it is plain that it lies (docs/faces.md).
TURN_GAP = 0.04
_TIMED_SECONDS = 0.001


class PictureBatch:
    """Pictures to score, with all that several metrics read from them.

    Args:
        networks: loaded for the suite.
        images: N pictures uint8 (H, W, 3) RGB.
        prompts: N texts.
        references: N lists of aligned faces uint8 (112, 112, 3).
        styles: N texts, the words of the style alone; empty where there are none.
    """

    def __init__(
        self,
        networks: Networks,
        images: Sequence[Picture],
        prompts: Sequence[str],
        references: Sequence[Sequence[Picture]],
        styles: Sequence[str],
    ) -> None:
        self.networks = networks
        self.images = images
        self.prompts = prompts
        self.references = references
        self.styles = styles

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def faces(self) -> list[list[Detection]]:
        """Faces of each picture, the largest first."""
        return list(self.networks.pool.map(self._find, self.images))

    def _find(self, image: Picture) -> list[Detection]:
        height, width = image.shape[:2]
        sizes = SMALL_SIZES if max(height, width) <= SMALL_PICTURE else LARGE_SIZES
        try:
            found = find_upright_faces(
                image,
                self.networks.faces,
                select="all",
                min_face=MIN_FACE * min(height, width),
                sizes=sizes,
                gap=TURN_GAP,
                level=False,  # FaceNet's crop levels the eyes itself
            )
        except FaceError:
            return []
        return sorted((face for face, _ in found), key=lambda face: -face.size)

    @cached_property
    def with_face(self) -> list[int]:
        """Numbers of the pictures that show a face and have a reference."""
        return [n for n in range(len(self)) if self.faces[n] and len(self.references[n])]

    @cached_property
    def facenet_features(self) -> list[NDArray[np.float32]]:
        """FaceNet embeddings, unit norm, of the faces of each picture, (faces, 512)."""
        counts = [len(found) for found in self.faces]
        flat = [face for found in self.faces for face in found]
        images = [image for image, n in zip(self.images, counts, strict=True) for _ in range(n)]
        features = self.networks.facenet.embed(images, flat)
        return np.split(features, np.cumsum(counts)[:-1])

    @cached_property
    def image_features(self) -> NDArray[np.float32]:
        """float32 (N, width), unit norm, of the image-text model."""
        if self.networks.image_text is None:
            raise RuntimeError("the suite was loaded without an image-text model")
        return self.networks.image_text.embed_images(self.images)

    def similarity_to_references(
        self,
        rows: Sequence[int],
        features: NDArray[np.float32],
        embed: Callable[[list[Picture]], list[NDArray[np.float32]]],
    ) -> Scores:
        """(N,) cosine of `features` of the pictures `rows` to their mean reference; else NaN."""
        scores = np.full(len(self), np.nan, dtype=np.float32)
        flat = [crop for row in rows for crop in self.references[row]]
        known = iter(embed(flat)) if flat else iter(())
        for row, feature in zip(rows, features, strict=True):
            mean = np.mean([next(known) for _ in self.references[row]], axis=0)
            scores[row] = _cosine(feature, mean)
        return scores

    def similarity_to_texts(self, texts: Sequence[str]) -> Scores:
        """(N,) cosine of picture and text; NaN where the text is empty."""
        scores = np.full(len(self), np.nan, dtype=np.float32)
        rows = [n for n in range(len(self)) if texts[n].strip()]
        if rows:
            features = self.networks.text([texts[n] for n in rows])
            for row, feature in zip(rows, features, strict=True):
                scores[row] = _cosine(self.image_features[row], feature)
        return scores


@dataclass(frozen=True, slots=True)
class Metric:
    """How one column is made and described.

    Attributes:
        title: for tables.
        higher_is_better: None: neither.
        bounds: smallest and largest possible value.
        unit: see `MetricInfo`.
        needs: networks.
        compute: float32 (N,) of a batch.
        note: what a reader has to know; may be empty.
    """

    title: str
    higher_is_better: bool | None
    bounds: tuple[float, float]
    unit: str
    needs: tuple[Need, ...]
    compute: Callable[[PictureBatch], Scores]
    note: str = ""

    def info(self, name: str, networks: Networks, preset_name: str) -> MetricInfo:
        """With the names and revisions of the networks that were loaded."""
        network, revision, notes = "", "", [self.note]
        if "facenet" in self.needs:
            network, revision = "FaceNet (Inception-ResNet-v1)", networks.facenet.revision
        elif "image_text" in self.needs and networks.image_text is not None:
            model = networks.image_text
            network, revision = model.name, model.revision
            notes.append(model.note)
        elif "faces" in self.needs:
            network, revision = "YuNet and SFace", networks.faces.revision
        if name == "identity_sface" and preset_name == "pocket":
            notes.append("pocket methods CONDITION on this network: for information, no judge")
        return MetricInfo(
            name=name,
            title=self.title,
            higher_is_better=self.higher_is_better,
            bounds=self.bounds,
            unit=self.unit,
            network=network,
            revision=revision,
            note="; ".join(note for note in notes if note),
        )


def _face_found(batch: PictureBatch) -> Scores:
    return np.array([bool(faces) for faces in batch.faces], dtype=np.float32)


def _face_count(batch: PictureBatch) -> Scores:
    return np.array([len(faces) for faces in batch.faces], dtype=np.float32)


def _identity_facenet(batch: PictureBatch) -> Scores:
    rows = batch.with_face
    features = np.empty((0, 0), dtype=np.float32)
    if rows:
        features = np.stack([batch.facenet_features[row][0] for row in rows])
    return batch.similarity_to_references(rows, features, batch.networks.facenet_reference)


def _identity_sface(batch: PictureBatch) -> Scores:
    rows = batch.with_face
    networks = batch.networks
    features = np.empty((0, 0), dtype=np.float32)
    if rows:
        crops = [align_face(batch.images[row], batch.faces[row][0].landmarks) for row in rows]
        features = networks.faces.embed(np.stack(crops))
    return batch.similarity_to_references(rows, features, networks.sface_reference)


def _text_score(batch: PictureBatch) -> Scores:
    return batch.similarity_to_texts(batch.prompts)


def _style_score(batch: PictureBatch) -> Scores:
    return batch.similarity_to_texts(batch.styles)


def _image_score(batch: PictureBatch) -> Scores:
    rows = [n for n in range(len(batch)) if len(batch.references[n])]
    return batch.similarity_to_references(
        rows, batch.image_features[rows], batch.networks.image_reference
    )


def _timed(batch: PictureBatch) -> Scores:
    time.sleep(_TIMED_SECONDS * len(batch))
    return np.full(len(batch), np.nan, dtype=np.float32)


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.dot(a, b)) / norms if norms > 0 else math.nan


_TO_REFERENCE = "cosine of the largest face to the mean of the reference faces; NaN without a face"

METRICS: dict[str, Metric] = {
    "face_found": Metric(
        "Face found", True, (0.0, 1.0), "share", ("faces",), _face_found, "1 or 0"
    ),
    "identity_facenet": Metric(
        "Identity (FaceNet)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "facenet"),
        _identity_facenet,
        f"{_TO_REFERENCE}; no method conditions on this network",
    ),
    "identity_sface": Metric(
        "Identity (SFace)", True, (-1.0, 1.0), "cosine", ("faces",), _identity_sface, _TO_REFERENCE
    ),
    "text_score": Metric(
        "Text",
        True,
        (-1.0, 1.0),
        "cosine",
        ("image_text",),
        _text_score,
        "cosine of picture and prompt as it was generated from",
    ),
    "image_score": Metric(
        "Image",
        True,
        (-1.0, 1.0),
        "cosine",
        ("image_text",),
        _image_score,
        "cosine of picture and the mean of the aligned reference faces; high for copies too",
    ),
    "style_score": Metric(
        "Style",
        True,
        (-1.0, 1.0),
        "cosine",
        ("image_text",),
        _style_score,
        "cosine of picture and the style's words alone; NaN for a style without words",
    ),
    "face_count": Metric(
        "Faces",
        None,
        (0.0, math.inf),
        "faces",
        ("faces",),
        _face_count,
        "faces at least 8 % of the picture's shorter side wide; 1 is wanted",
    ),
    "timed": Metric(
        "Timed",
        None,
        (0.0, 0.0),
        "none",
        (),
        _timed,
        "no value: it sleeps one millisecond a picture, to measure the pipeline around scoring",
    ),
}
"""Metric name, which is the column's, -> how it is made."""

DEFAULT_METRICS: tuple[str, ...] = tuple(name for name in METRICS if name != "timed")
