"""Arrow schemas of every table, with versions. Light: importing this loads neither torch nor ray.

Two kinds of tables. Manifests are what a user writes: identities, prompts, styles, mixes, groups.
Results are what a run writes, one folder each: faces, embeddings, requests, images, scores,
group_scores, rejects.
Only plain types are used (string, numbers, binary, list, fixed_size_list), so that any Parquet
reader opens them. A schema carries its name and version in its metadata.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

__all__ = [
    "EMBEDDINGS",
    "FACES",
    "GROUPS",
    "GROUP_SCORES",
    "IDENTITIES",
    "IMAGES",
    "MANIFESTS",
    "MIXES",
    "PROMPTS",
    "PROVENANCE",
    "REFERENCES",
    "REJECTS",
    "REQUESTS",
    "SAMPLE_KEYS",
    "STYLES",
    "VERDICTS",
    "measures_schema",
    "scores_schema",
    "version_of",
]

_NAME = b"infinite_id.table"
_VERSION = b"infinite_id.version"


def _schema(name: str, version: int, fields: Sequence[pa.Field]) -> pa.Schema:
    metadata = {_NAME: name.encode(), _VERSION: str(version).encode()}
    return pa.schema(fields, metadata=metadata)


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_PROVENANCE = [
    pa.field("class_word", pa.string()),  # man, woman, person: what {subject} becomes
    pa.field("consent", pa.string()),  # free text or a reference to the consent on file
    pa.field("licence", pa.string()),  # of the photos
    pa.field("source", pa.string()),  # where the photos come from
]

PROVENANCE = tuple(field.name for field in _PROVENANCE)
"""Columns that travel from a person to each of their pictures."""

_MIX_PARTS = pa.list_(
    pa.struct([_required("identity_id", pa.string()), _required("weight", pa.float64())])
)

_BOX = pa.list_(pa.float64())  # x0 y0 x1 y1 in fractions of the picture
_PEOPLE = pa.list_(pa.string())

# What a ControlNet holds a picture to; null: nothing.
_CONTROL = [
    pa.field("control_image", pa.string()),  # its address
    # in its place, x and y of eyes, nose and corners of the mouth in fractions of the picture
    pa.field("control_keypoints", pa.list_(pa.float64())),
    pa.field("controlnet_conditioning_scale", pa.float64()),
    pa.field("control_guidance_start", pa.float64()),  # fractions of the steps
    pa.field("control_guidance_end", pa.float64()),
    pa.field("control_streams", pa.string()),  # both, or text
]

IDENTITIES = _schema(
    "identities",
    1,
    [
        _required("identity_id", pa.string()),
        # each photo is given by address or by its encoded bytes
        _required(
            "photos", pa.list_(pa.struct([("uri", pa.string()), ("bytes", pa.large_binary())]))
        ),
        # which face of a photo with several, left to right; null: the photo must show one face
        pa.field("face_index", pa.int32()),
        *_PROVENANCE,
    ],
)

PROMPTS = _schema(
    "prompts",
    1,
    [
        _required("prompt_id", pa.string()),
        _required("text", pa.string()),  # may hold {subject}
        pa.field("scene", pa.string()),
        # the picture that the prompt's pictures begin with, by address; null: noise
        pa.field("image", pa.string()),
        pa.field("mask_image", pa.string()),  # white is made anew; null: all is
        pa.field("strength", pa.float64()),  # share of the steps that are taken, in (0, 1]
        *_CONTROL,
    ],
)

STYLES = _schema(
    "styles",
    1,
    [
        _required("style", pa.string()),
        _required("suffix", pa.string()),  # appended to the prompt
        pa.field("negative_prompt", pa.string()),
    ],
)

MIXES = _schema(
    "mixes",
    1,
    [
        _required("mix_id", pa.string()),
        _required("parts", _MIX_PARTS),
        _required("mode", pa.string()),  # interpolate or stack
    ],
)

GROUPS = _schema(
    "groups",
    1,
    [
        _required("group_id", pa.string()),
        _required("people", _PEOPLE),  # identity_ids, in the order of the regions
        pa.field("regions", pa.list_(_BOX)),  # one a person; null: "auto", the generator finds them
    ],
)

MANIFESTS = {
    "identities": IDENTITIES,
    "prompts": PROMPTS,
    "styles": STYLES,
    "mixes": MIXES,
    "groups": GROUPS,
}

FACES = _schema(
    "faces",
    1,
    [
        _required("identity_id", pa.string()),
        _required("image_id", pa.string()),
        _required("bbox", pa.list_(pa.float32(), 4)),  # x0 y0 x1 y1, pixels after EXIF rotation
        _required("landmarks", pa.list_(pa.float32(), 10)),  # 5 x (x, y)
        _required("det_score", pa.float32()),
        _required("aligned", pa.binary()),  # PNG, 112 x 112 RGB
        _required("photo_height", pa.int32()),
        _required("photo_width", pa.int32()),
        pa.field("turned", pa.int32()),  # degrees counter-clockwise, until the face stood upright
        pa.field("photo", pa.string()),  # its address; null where it was given as bytes alone
        *_PROVENANCE,
    ],
)

EMBEDDINGS = _schema(
    "embeddings",
    1,
    [
        _required("identity_id", pa.string()),
        _required("face", pa.list_(pa.float32())),  # unit norm
        _required("clip", pa.binary()),  # float16, C order, (clip_tokens, clip_width)
        _required("clip_tokens", pa.int32()),
        _required("clip_width", pa.int32()),
        _required("revision", pa.string()),
        _required("digest", pa.string()),  # of face, clip and revision: part of sample_id
        _required("aligned", pa.list_(pa.binary())),  # PNG, one a photo
        # lowest over the photos of the mean cosine to the person's others; null with one photo
        pa.field("agreement", pa.float32()),
        pa.field("warning", pa.string()),  # one sentence where the photos do not agree
        *_PROVENANCE,
    ],
)

# The columns by which a picture is grouped and joined, in every table from requests on.
SAMPLE_KEYS = [
    _required("sample_id", pa.string()),
    _required("identity_id", pa.string()),
    _required("method", pa.string()),
    _required("prompt_id", pa.string()),
    _required("style", pa.string()),
    _required("seed", pa.int64()),
]

REQUESTS = _schema(
    "requests",
    1,
    [
        *SAMPLE_KEYS,
        _required("prompt", pa.string()),
        _required("negative_prompt", pa.string()),
        _required("height", pa.int32()),
        _required("width", pa.int32()),
        _required("num_inference_steps", pa.int32()),
        _required("guidance_scale", pa.float64()),
        pa.field("mix_parts", _MIX_PARTS),  # null unless identity_id names a mix
        pa.field("mix_mode", pa.string()),
        pa.field("group_people", _PEOPLE),  # null unless identity_id names a group
        pa.field("group_regions", pa.list_(_BOX)),  # null too where the generator finds them
        pa.field("image", pa.string()),  # the address of what it begins with; null: noise
        pa.field("mask_image", pa.string()),
        pa.field("strength", pa.float64()),
        *_CONTROL,
    ],
)

IMAGES = _schema(
    "images",
    1,
    [
        *SAMPLE_KEYS,
        _required("prompt", pa.string()),
        _required("image", pa.binary()),  # encoded, in `format`
        _required("format", pa.string()),  # png, webp or jpeg
        _required("height", pa.int32()),
        _required("width", pa.int32()),
        _required("seconds", pa.float64()),  # of the batch, divided by its size
        _required("model_revision", pa.string()),
        pa.field("details", pa.int32()),  # small faces made again; null: that was not asked for
        pa.field("regions", pa.list_(_BOX)),  # of a group's people, given or found; null: no group
        *_PROVENANCE,
    ],
)

REJECTS = _schema(
    "rejects",
    1,
    [
        _required("stage", pa.string()),  # faces, embeddings, mixes, groups, images, scores
        _required("key", pa.string()),  # identity_id, the key of a mix or a group, or sample_id
        pa.field("image_id", pa.string()),
        _required("reason", pa.string()),  # a short code, e.g. no_face
        _required("message", pa.string()),  # one sentence
    ],
)

GROUP_SCORES = _schema(
    "group_scores",
    1,
    [
        *SAMPLE_KEYS,
        _required("person", pa.string()),  # one row for each of the group
        _required("number", pa.int32()),  # in the order of the regions, from 0
        _required("faces", pa.int32()),  # of the picture
        pa.field("region", _BOX),  # null: not known
        pa.field("face_in_region", _BOX),  # null: no face there
        pa.field("matched_face", _BOX),  # the person's by identity; null: fewer faces than people
        # see eval.groups.PersonSeen; NaN or null without a face
        pa.field("identity", pa.float32()),
        pa.field("group_margin", pa.float32()),
        pa.field("identity_in_region", pa.float32()),
        pa.field("mixed_up", pa.bool_()),
    ],
)

REFERENCES = _schema(
    "references",
    1,
    [
        _required("identity_id", pa.string()),
        _required("face", pa.list_(pa.float32())),  # of the judge, unit norm
        _required("revision", pa.string()),  # of the judge
    ],
)

VERDICTS = _schema(
    "verdicts",
    1,
    [
        *SAMPLE_KEYS,
        _required("unit", pa.int64()),  # whose `images` and `scores` have the picture
        _required("round", pa.int32()),  # 0: the first draw of a slot
        _required("person", pa.int64()),  # number in the plan
        _required("slot", pa.int64()),  # which of the person's wanted pictures
        _required("accepted", pa.bool_()),
        pa.field("reason", pa.string()),  # null where accepted
        pa.field("fingerprint", pa.uint64()),  # perceptual hash; null where nothing was made
    ],
)


def scores_schema(metrics: Sequence[str]) -> pa.Schema:
    """Schema of `scores`: the sample's keys, then one float32 column a metric (NaN: unscorable)."""
    return _schema("scores", 1, [*SAMPLE_KEYS, *(pa.field(name, pa.float32()) for name in metrics)])


def measures_schema(metrics: Sequence[str]) -> pa.Schema:
    """Schema of `scores` of a synthesis: the metrics, and what the other gates look at."""
    extra = [
        pa.field("fingerprint", pa.uint64()),  # 64-bit perceptual hash of the picture
        pa.field("other_identity", pa.float32()),  # cosine to `other_person`; NaN without a face
        pa.field("other_person", pa.string()),  # the most similar person who was not asked for
    ]
    return _schema("scores", 1, [*scores_schema(metrics), *extra])


def version_of(schema: pa.Schema) -> tuple[str, int] | None:
    """(table name, version) that a schema carries, None where it carries none."""
    metadata = schema.metadata or {}
    if _NAME not in metadata or _VERSION not in metadata:
        return None
    return metadata[_NAME].decode(), int(metadata[_VERSION])
