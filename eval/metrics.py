"""The metrics of single pictures: columns of the scores table.

Each entry of `METRICS` says what it measures, with which network, and computes one value a
picture from a `PictureBatch`, in which faces and features are found once and shared. NaN means
that a picture cannot be scored; it is never replaced by a number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.judges.networks import Need, Networks
from eval.metric_info import MetricInfo
from eval.picture_batch import PictureBatch

__all__ = ["DEFAULT_METRICS", "LEAST_AUC", "METRICS", "Metric"]

Scores = NDArray[np.float32]

_TIMED_SECONDS = 0.001
# A network that tells people apart no better than this on the control says nothing of identity.
LEAST_AUC = 0.6


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

    def info(self, name: str, networks: Networks, preset_name: str, candidates: int) -> MetricInfo:
        """With the names and revisions of the networks that were loaded.

        Args:
            name: of the column.
            networks: of the suite.
            preset_name: whose methods are scored.
            candidates: styles that a picture's own is told apart from.
        """
        network, revision, notes, left_out = "", "", [self.note], ""
        if "facenet" in self.needs:
            network, revision = "FaceNet (Inception-ResNet-v1)", networks.facenet.revision
        elif "image_text" in self.needs and networks.image_text is not None:
            model = networks.image_text
            network, revision = model.name, model.revision
            notes.append(model.note)
        elif "nsfw" in self.needs:
            network, revision = "open_nsfw (ResNet-50)", networks.nsfw.revision
        elif "faces" in self.needs:
            network, revision = "YuNet and SFace", networks.faces.revision
        if name == "identity_sface" and preset_name == "pocket":
            notes.append("pocket methods CONDITION on this network: for information, no judge")
        if name == "image_score":
            auc = networks.image_control
            told = f"tells the people of the control apart with an AUC of {auc:.2f}"
            if auc < LEAST_AUC:
                left_out = f"{name} is left out: its network {told}, allowed: {LEAST_AUC} or more"
            notes.append(told)
        if name in ("style_score", "style_first"):
            notes.append(f"{candidates} styles; chance is 1 in {candidates}")
        return MetricInfo(
            name=name,
            title=self.title,
            higher_is_better=self.higher_is_better,
            bounds=self.bounds,
            unit=self.unit,
            network=network,
            revision=revision,
            note="; ".join(note for note in notes if note),
            left_out=left_out,
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
        features = networks.faces.embed(np.stack(batch.crops))
    return batch.similarity_to_references(rows, features, networks.sface_reference)


def _text_score(batch: PictureBatch) -> Scores:
    return batch.similarity_to_texts(batch.prompts)


def _style_score(batch: PictureBatch) -> Scores:
    own, others = batch.style_cosines
    means = [found.mean() if len(found) else math.nan for found in others]
    return np.asarray(own - np.array(means, dtype=np.float32), dtype=np.float32)


def _style_first(batch: PictureBatch) -> Scores:
    own, others = batch.style_cosines
    first = [
        float(value > found.max()) if len(found) else math.nan
        for value, found in zip(own, others, strict=True)
    ]
    return np.array(first, dtype=np.float32)


def _image_score(batch: PictureBatch) -> Scores:
    rows, networks = batch.with_face, batch.networks
    if not rows or networks.image_text is None or networks.image_control < LEAST_AUC:
        return np.full(len(batch), np.nan, dtype=np.float32)
    features = networks.image_text.embed_images(batch.crops)
    return batch.similarity_to_references(rows, features, networks.image_reference)


def _nsfw(batch: PictureBatch) -> Scores:
    return batch.networks.nsfw.score(batch.images)


def _timed(batch: PictureBatch) -> Scores:
    time.sleep(_TIMED_SECONDS * len(batch))
    return np.full(len(batch), np.nan, dtype=np.float32)


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
        ("faces", "image_text"),
        _image_score,
        "cosine of the picture's aligned face and the mean of the aligned reference faces; high "
        "for copies too; NaN without a face",
    ),
    "style_score": Metric(
        "Style",
        True,
        (-2.0, 2.0),
        "cosine",
        ("image_text",),
        _style_score,
        "cosine of picture and the style's words, less the mean cosine to the other styles' words; "
        "NaN for a style without words",
    ),
    "style_first": Metric(
        "Style first",
        True,
        (0.0, 1.0),
        "share",
        ("image_text",),
        _style_first,
        "1 where no other style's words are as near to the picture, else 0; NaN for a style "
        "without words",
    ),
    "nsfw": Metric(
        "NSFW",
        False,
        (0.0, 1.0),
        "probability",
        ("nsfw",),
        _nsfw,
        "that the picture is indecent; trained on photographs of 2016, it knows no drawn styles",
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
