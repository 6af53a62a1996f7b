"""The metrics of single pictures: columns of the scores table.

Each entry of `METRICS` says what it measures, with which network, and computes one value a
picture from a `PictureBatch`, in which faces and features are found once and shared. NaN means
that a picture cannot be scored; it is never replaced by a number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.judges.networks import FACE_FILES, Need, Networks
from eval.metric_info import MetricInfo
from eval.picture_batch import PictureBatch

__all__ = [
    "DEFAULT_METRICS",
    "GROUPS",
    "LEAST_AUC",
    "METRICS",
    "Metric",
    "metric_names",
    "needs_of",
]

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
        definition: names what is measured where that has changed; part of the revision, so that
            runs of another meaning are not compared.
    """

    title: str
    higher_is_better: bool | None
    bounds: tuple[float, float]
    unit: str
    needs: tuple[Need, ...]
    compute: Callable[[PictureBatch], Scores]
    note: str = ""
    definition: str = ""

    def info(self, name: str, networks: Networks, preset_name: str, candidates: int) -> MetricInfo:
        """With the names and revisions of the networks that were loaded.

        Args:
            name: of the column.
            networks: of the suite.
            preset_name: whose methods are scored.
            candidates: styles that a picture's own is told apart from.
        """
        network, revision = _judge(self.needs, networks)
        notes, left_out = [self.note], ""
        if "image_text" in self.needs and networks.image_text is not None:
            notes.append(networks.image_text.note)
        if name == "identity_mean":
            every = [networks.facenet.revision, *(n.revision for n in networks.face_files.values())]
            network, revision = f"{len(every)} networks", " + ".join(every)
        if self.definition:
            revision = f"{revision}, {self.definition}"
        notes.append(_conditions(name, networks, preset_name))
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


def _judge(needs: Sequence[Need], networks: Networks) -> tuple[str, str]:
    """Name and revision of the network that judges, of several that of the last stage."""
    if "facenet" in needs:
        return "FaceNet (Inception-ResNet-v1)", networks.facenet.revision
    for need in needs:
        if need in networks.face_files:
            return networks.face_files[need].name, networks.face_files[need].revision
        if need in ("aesthetic", "hpsv2", "vlm", "nsfw"):
            judge = getattr(networks, need)
            return judge.name, judge.revision
    if "image_text" in needs and networks.image_text is not None:
        return networks.image_text.name, networks.image_text.revision
    if "faces" in needs:
        return "YuNet and SFace", networks.faces.revision
    return "", ""


def _conditions(name: str, networks: Networks, preset_name: str) -> str:
    """A warning where a judge of identity also conditions the methods; else empty."""
    by = networks.judges.conditions or ("embedded" if preset_name == "pocket" else "")
    if by == "none":
        return ""
    if name == "identity_sface" and by == "embedded":
        return "methods CONDITION on this network: for information, no judge"
    arcface = name == "identity_arcface" or (
        name == "identity_mean" and "arcface" in networks.face_files
    )
    if arcface and by and by != "embedded":
        return f"methods CONDITION on an ArcFace network (the pack {by}): for information, no judge"
    return ""


def _face_found(batch: PictureBatch) -> Scores:
    return np.array([bool(faces) for faces in batch.faces], dtype=np.float32)


def _face_count(batch: PictureBatch) -> Scores:
    return np.array([len(faces) for faces in batch.faces], dtype=np.float32)


def _identity(network: str) -> Callable[[PictureBatch], Scores]:
    return lambda batch: batch.identity(network)


def _identity_mean(batch: PictureBatch) -> Scores:
    every = [batch.identity(name) for name in ("facenet", *batch.networks.face_files)]
    return np.asarray(np.mean(every, axis=0), dtype=np.float32)


def _pose(axis: int) -> Callable[[PictureBatch], Scores]:
    return lambda batch: batch.pose_differences[:, axis]


def _vlm(question: str) -> Callable[[PictureBatch], Scores]:
    def ask(batch: PictureBatch) -> Scores:
        def one(row: int) -> float:
            photos = batch.references[row]
            if question == "subject" and not len(photos):
                return math.nan
            return batch.networks.vlm.score(question, batch.images[row], batch.prompts[row], photos)

        return np.array(list(batch.networks.pool.map(one, range(len(batch)))), dtype=np.float32)

    return ask


def _vlm_overall(batch: PictureBatch) -> Scores:
    # Both answers are kept, so that nothing is asked again.
    return np.sqrt(_vlm("prompt")(batch) * _vlm("subject")(batch))


def _aesthetic(batch: PictureBatch) -> Scores:
    return batch.networks.aesthetic.score(batch.images)


def _hpsv2(batch: PictureBatch) -> Scores:
    return batch.networks.hpsv2.score(batch.images, batch.prompts)


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

_POSE = (
    "degrees between the largest face and the nearest aligned reference face, from five landmarks "
    "(DeMenthon and Davis 1995); near 0 in all three: the photo's pose was copied; NaN without a "
    "face"
)
_ASKED = "answer of a vision-language model that sees the picture; NaN without an answer"

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
        _identity("facenet"),
        f"{_TO_REFERENCE}; no method conditions on this network",
    ),
    "identity_sface": Metric(
        "Identity (SFace)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces",),
        _identity("sface"),
        _TO_REFERENCE,
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
        definition="of aligned faces",
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
        definition="less the other styles",
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
    "identity_arcface": Metric(
        "Identity (ArcFace)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "arcface"),
        _identity("arcface"),
        _TO_REFERENCE,
    ),
    "identity_adaface": Metric(
        "Identity (AdaFace)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "adaface"),
        _identity("adaface"),
        _TO_REFERENCE,
    ),
    "identity_mean": Metric(
        "Identity (mean)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "facenet"),
        _identity_mean,
        "mean of the cosines by FaceNet and the networks given; NaN without a face",
    ),
    "pose_yaw": Metric(
        "Yaw difference", None, (0.0, 180.0), "degrees", ("faces",), _pose(0), _POSE
    ),
    "pose_pitch": Metric(
        "Pitch difference", None, (0.0, 180.0), "degrees", ("faces",), _pose(1), _POSE
    ),
    "pose_roll": Metric(
        "Roll difference", None, (0.0, 180.0), "degrees", ("faces",), _pose(2), _POSE
    ),
    "aesthetic": Metric(
        "Aesthetic",
        True,
        (-math.inf, math.inf),
        "score",
        ("aesthetic",),
        _aesthetic,
        "a guess at how people rate pictures, about 1 to 10",
    ),
    "hpsv2": Metric(
        "HPSv2",
        True,
        (-1.0, 1.0),
        "cosine",
        ("hpsv2",),
        _hpsv2,
        "a guess at which of two pictures of a prompt people prefer; compare within a prompt",
    ),
    "vlm_prompt": Metric(
        "VLM prompt", True, (0.0, 10.0), "points", ("vlm",), _vlm("prompt"), _ASKED
    ),
    "vlm_subject": Metric(
        "VLM subject",
        True,
        (0.0, 10.0),
        "points",
        ("vlm",),
        _vlm("subject"),
        f"{_ASKED}, and the aligned reference faces",
    ),
    "vlm_overall": Metric(
        "VLM overall",
        True,
        (0.0, 10.0),
        "points",
        ("vlm",),
        _vlm_overall,
        "geometric mean of the answers about prompt and subject",
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

DEFAULT_METRICS: tuple[str, ...] = (
    "face_found", "identity_facenet", "identity_sface", "text_score", "image_score",
    "style_score", "style_first", "nsfw", "face_count",
)  # fmt: skip

GROUPS: dict[str, tuple[str, ...]] = {
    "default": DEFAULT_METRICS,
    "pose": ("pose_yaw", "pose_pitch", "pose_roll"),
    "vlm": ("vlm_prompt", "vlm_subject", "vlm_overall"),
}
"""A name in a list of metrics that stands for several."""


def metric_names(names: Sequence[str] | None, judges: Iterable[str] = ()) -> list[str]:
    """The columns that a list of metrics and groups asks for.

    Args:
        names: of `METRICS` and `GROUPS`; None: the default ones, with a column for each identity
            network given, and their mean.
        judges: names of the judges given.

    Raises:
        ValueError: an unknown name, one twice, or none.
    """
    if names is None:
        given = [f"identity_{name}" for name in FACE_FILES if name in set(judges)]
        return [*DEFAULT_METRICS, *given, *(["identity_mean"] if given else [])]
    chosen = [one for name in names for one in GROUPS.get(name, (name,))]
    for name in chosen:
        if name not in METRICS:
            allowed = ", ".join([*METRICS, *GROUPS])
            raise ValueError(f"metric is {name!r}, allowed: {allowed}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"metrics are {list(names)}, allowed: each at most once, at least one")
    return chosen


def needs_of(
    names: Sequence[str] | None, judges: Iterable[str] = ()
) -> dict[str, tuple[Need, ...]]:
    """Metric -> the networks that it needs; arguments as of `metric_names`."""
    given = set(judges)
    found = {name: METRICS[name].needs for name in metric_names(names, given)}
    if "identity_mean" in found:
        others = [name for name in FACE_FILES if name in given]
        found["identity_mean"] += tuple(others or ["arcface"])
    return found
