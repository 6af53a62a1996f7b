"""How each column of the scores table is computed: a function of a `PictureBatch` gives (N,).

NaN means that a picture cannot be scored; it is never replaced by a number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from eval.metric import LEAST_AUC
from eval.picture_batch import PictureBatch

__all__ = [
    "aesthetic",
    "face_count",
    "face_found",
    "hpsv2",
    "identity",
    "identity_mean",
    "image_score",
    "nsfw",
    "pose",
    "pose_difference",
    "reference_pose",
    "style_first",
    "style_score",
    "text_score",
    "timed",
    "vlm",
    "vlm_overall",
]

Scores = NDArray[np.float32]
_TIMED_SECONDS = 0.001


def face_found(batch: PictureBatch) -> Scores:
    return np.array([bool(faces) for faces in batch.faces], dtype=np.float32)


def face_count(batch: PictureBatch) -> Scores:
    return np.array([len(faces) for faces in batch.faces], dtype=np.float32)


def identity(network: str) -> Callable[[PictureBatch], Scores]:
    return lambda batch: batch.identity(network)


def identity_mean(batch: PictureBatch) -> Scores:
    every = [batch.identity(name) for name in ("facenet", *batch.networks.face_files)]
    return np.asarray(np.mean(every, axis=0), dtype=np.float32)


def pose(axis: int) -> Callable[[PictureBatch], Scores]:
    return lambda batch: batch.poses[:, axis]


def reference_pose(axis: int) -> Callable[[PictureBatch], Scores]:
    return lambda batch: batch.reference_poses[:, axis]


def pose_difference(axis: int) -> Callable[[PictureBatch], Scores]:
    return lambda batch: batch.pose_differences[:, axis]


def vlm(question: str) -> Callable[[PictureBatch], Scores]:
    def ask(batch: PictureBatch) -> Scores:
        def one(row: int) -> float:
            photos = batch.references[row]
            if question == "subject" and not len(photos):
                return math.nan
            return batch.networks.vlm.score(question, batch.images[row], batch.prompts[row], photos)

        return np.array(list(batch.networks.pool.map(one, range(len(batch)))), dtype=np.float32)

    return ask


def vlm_overall(batch: PictureBatch) -> Scores:
    # Both answers are kept, so that nothing is asked again.
    return np.sqrt(vlm("prompt")(batch) * vlm("subject")(batch))


def aesthetic(batch: PictureBatch) -> Scores:
    return batch.networks.aesthetic.score(batch.images)


def hpsv2(batch: PictureBatch) -> Scores:
    return batch.networks.hpsv2.score(batch.images, batch.prompts)


def text_score(batch: PictureBatch) -> Scores:
    return batch.similarity_to_texts(batch.prompts)


def style_score(batch: PictureBatch) -> Scores:
    own, others = batch.style_cosines
    means = [found.mean() if len(found) else math.nan for found in others]
    return np.asarray(own - np.array(means, dtype=np.float32), dtype=np.float32)


def style_first(batch: PictureBatch) -> Scores:
    own, others = batch.style_cosines
    first = [
        float(value > found.max()) if len(found) else math.nan
        for value, found in zip(own, others, strict=True)
    ]
    return np.array(first, dtype=np.float32)


def image_score(batch: PictureBatch) -> Scores:
    networks = batch.networks
    if networks.image_text is None or networks.image_control < LEAST_AUC:
        return np.full(len(batch), np.nan, dtype=np.float32)
    return batch.similarity_to_references(batch.image_face_features(), networks.image_reference)


def nsfw(batch: PictureBatch) -> Scores:
    return batch.networks.nsfw.score(batch.images)


def timed(batch: PictureBatch) -> Scores:
    time.sleep(_TIMED_SECONDS * len(batch))
    return np.full(len(batch), np.nan, dtype=np.float32)
