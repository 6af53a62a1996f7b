"""The metrics of single pictures: which columns there are, and what each says of itself.

How they are computed stands in `eval.columns`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from eval import columns
from eval.judges.networks import FACE_FILES, Need
from eval.metric import Metric

__all__ = [
    "DEFAULT_METRICS",
    "GROUPS",
    "METRICS",
    "metric_names",
    "needs_of",
]

_TO_REFERENCE = "cosine of the largest face to the mean of the reference faces; NaN without a face"

_POSE = (
    "degrees between the largest face and the nearest aligned reference face, from five landmarks "
    "(DeMenthon and Davis 1995); near 0 in all three: the photo's pose was copied; NaN without a "
    "face"
)
_TOWARDS = (
    "positive to the picture's right",
    "positive where it looks down",
    "positive where it leans clockwise",
)
_ASKED = "answer of a vision-language model that sees the picture; NaN without an answer"

METRICS: dict[str, Metric] = {
    "face_found": Metric(
        "Face found", True, (0.0, 1.0), "share", ("faces",), columns.face_found, "1 or 0"
    ),
    "identity_facenet": Metric(
        "Identity (FaceNet)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "facenet"),
        columns.identity("facenet"),
        f"{_TO_REFERENCE}; no method conditions on this network",
    ),
    "identity_sface": Metric(
        "Identity (SFace)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces",),
        columns.identity("sface"),
        _TO_REFERENCE,
    ),
    "text_score": Metric(
        "Text",
        True,
        (-1.0, 1.0),
        "cosine",
        ("image_text",),
        columns.text_score,
        "cosine of picture and prompt as it was generated from",
    ),
    "image_score": Metric(
        "Image",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "image_text"),
        columns.image_score,
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
        columns.style_score,
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
        columns.style_first,
        "1 where no other style's words are as near to the picture, else 0; NaN for a style "
        "without words",
    ),
    "nsfw": Metric(
        "NSFW",
        False,
        (0.0, 1.0),
        "probability",
        ("nsfw",),
        columns.nsfw,
        "that the picture is indecent; trained on photographs of 2016, it knows no drawn styles",
    ),
    "face_count": Metric(
        "Faces",
        None,
        (0.0, math.inf),
        "faces",
        ("faces",),
        columns.face_count,
        "faces at least 8 % of the picture's shorter side wide; 1 is wanted",
    ),
    "identity_arcface": Metric(
        "Identity (ArcFace)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "arcface"),
        columns.identity("arcface"),
        _TO_REFERENCE,
    ),
    "identity_adaface": Metric(
        "Identity (AdaFace)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "adaface"),
        columns.identity("adaface"),
        _TO_REFERENCE,
    ),
    "identity_mean": Metric(
        "Identity (mean)",
        True,
        (-1.0, 1.0),
        "cosine",
        ("faces", "facenet"),
        columns.identity_mean,
        "mean of the cosines by FaceNet and the networks given; NaN without a face",
    ),
    "pose_yaw": Metric(
        "Yaw difference",
        None,
        (0.0, 180.0),
        "degrees",
        ("faces",),
        columns.pose_difference(0),
        _POSE,
    ),
    "pose_pitch": Metric(
        "Pitch difference",
        None,
        (0.0, 180.0),
        "degrees",
        ("faces",),
        columns.pose_difference(1),
        _POSE,
    ),
    "pose_roll": Metric(
        "Roll difference",
        None,
        (0.0, 180.0),
        "degrees",
        ("faces",),
        columns.pose_difference(2),
        _POSE,
    ),
    **{
        name: Metric(
            name.capitalize(),
            None,
            (-180.0, 180.0),
            "degrees",
            ("faces",),
            columns.pose(axis),
            f"of the largest face, {_TOWARDS[axis]}; NaN without a face",
        )
        for axis, name in enumerate(("yaw", "pitch", "roll"))
    },
    **{
        f"reference_{name}": Metric(
            f"Reference {name}",
            None,
            (-180.0, 180.0),
            "degrees",
            ("faces",),
            columns.reference_pose(axis),
            f"mean of the aligned reference faces, {_TOWARDS[axis]}; NaN where none is found",
        )
        for axis, name in enumerate(("yaw", "pitch"))
    },
    "aesthetic": Metric(
        "Aesthetic",
        True,
        (-math.inf, math.inf),
        "score",
        ("aesthetic",),
        columns.aesthetic,
        "a guess at how people rate pictures, about 1 to 10",
    ),
    "hpsv2": Metric(
        "HPSv2",
        True,
        (-1.0, 1.0),
        "cosine",
        ("hpsv2",),
        columns.hpsv2,
        "a guess at which of two pictures of a prompt people prefer; compare within a prompt",
        definition="whole pictures",
    ),
    "vlm_prompt": Metric(
        "VLM prompt", True, (0.0, 10.0), "points", ("vlm",), columns.vlm("prompt"), _ASKED
    ),
    "vlm_subject": Metric(
        "VLM subject",
        True,
        (0.0, 10.0),
        "points",
        ("vlm",),
        columns.vlm("subject"),
        f"{_ASKED}, and the aligned reference faces",
    ),
    "vlm_overall": Metric(
        "VLM overall",
        True,
        (0.0, 10.0),
        "points",
        ("vlm",),
        columns.vlm_overall,
        "geometric mean of the answers about prompt and subject",
    ),
    "timed": Metric(
        "Timed",
        None,
        (0.0, 0.0),
        "none",
        (),
        columns.timed,
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
    "pose": (
        "yaw", "pitch", "roll", "reference_yaw", "reference_pitch",
        "pose_yaw", "pose_pitch", "pose_roll",
    ),
    "vlm": ("vlm_prompt", "vlm_subject", "vlm_overall"),
}  # fmt: skip
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
