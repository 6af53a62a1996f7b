"""Arrow schemas of every table, with versions. Light: importing this loads neither torch nor ray.

Two kinds of tables. Manifests are what a user writes: identities, prompts, styles, mixes. Results
are what a run writes, one folder each: faces, embeddings, requests, images, scores, rejects.
Only plain types are used (string, numbers, binary, list, fixed_size_list), so that any Parquet
reader opens them. A schema carries its name and version in its metadata.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa

__all__ = [
    "EMBEDDINGS",
    "FACES",
    "IDENTITIES",
    "IMAGES",
    "MANIFESTS",
    "MIXES",
    "PANDAS_INDEX",
    "PROMPTS",
    "PROVENANCE",
    "REFERENCES",
    "REJECTS",
    "REQUESTS",
    "SAMPLE_KEYS",
    "STYLES",
    "VERDICTS",
    "check_keys",
    "check_names",
    "check_table",
    "measures_schema",
    "scores_schema",
    "version_of",
]

_OURS = b"infinite_id."
_NAME = b"infinite_id.table"
_VERSION = b"infinite_id.version"


PANDAS_INDEX = "as pandas writes its row numbers (index=False leaves them out)"
_OF_PANDAS = re.compile(r"__index_level_\d+__|Unnamed: 0")


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

_RESULT_KEYS = {
    "faces": "image_id",
    "embeddings": "identity_id",
    "references": "identity_id",
    "requests": "sample_id",
    "images": "sample_id",
    "scores": "sample_id",
    "verdicts": "sample_id",
}

MANIFESTS = {"identities": IDENTITIES, "prompts": PROMPTS, "styles": STYLES, "mixes": MIXES}

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
        *_PROVENANCE,
    ],
)

REJECTS = _schema(
    "rejects",
    1,
    [
        _required("stage", pa.string()),  # faces, embeddings, images or scores
        _required("key", pa.string()),  # identity_id or sample_id
        pa.field("image_id", pa.string()),
        _required("reason", pa.string()),  # a short code, e.g. no_face
        _required("message", pa.string()),  # one sentence
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


def check_table(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """`table` with the columns of `schema`, in its order and types.

    Missing nullable columns are added as nulls; columns that the schema does not know are refused,
    because a misspelt column would otherwise be ignored in silence. Nothing becomes text that was
    none, and no number is rounded. Metadata of this project stays.

    Args:
        table: as read.
        schema: one of this module's.
        where: what the message calls the table, e.g. its path.

    Raises:
        ValueError: a later version, a missing or unknown column, a wrong type, or a null or empty
            string in a required column; the message names `where`, the column and the row.
    """
    known = version_of(schema)
    found = version_of(table.schema)
    if known and found and (found[0] != known[0] or found[1] > known[1]):
        raise ValueError(
            f"{where} is table {found[0]!r} version {found[1]}, this program reads "
            f"{known[0]!r} up to version {known[1]}"
        )
    check_names(table.column_names, schema, where)
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise ValueError(
                    f"{where} lacks the column {field.name!r}, present: "
                    f"{', '.join(table.column_names) or 'none'}"
                )
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        try:
            if not _holds(column.type, field.type):
                raise pa.ArrowTypeError(str(column.type))
            column = column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise ValueError(
                f"{where}, column {field.name!r}: type is {column.type}, allowed: {field.type}"
            ) from error
        if not field.nullable:
            _check_present(column, field, where)
        columns.append(column)
    carried = {k: v for k, v in (table.schema.metadata or {}).items() if k.startswith(_OURS)}
    metadata = {**carried, **(schema.metadata or {})}
    return pa.table(columns, schema=schema.with_metadata(metadata))


def check_names(names: Iterable[object], schema: pa.Schema, where: str) -> None:
    """Raises a ValueError that names the first column which the schema does not know."""
    unknown = next((str(name) for name in names if name not in schema.names), None)
    if unknown is not None:
        pandas = f", {PANDAS_INDEX}" if _OF_PANDAS.fullmatch(unknown) else ""
        raise ValueError(
            f"{where} has the unknown column {unknown!r}{pandas}, allowed: "
            f"{', '.join(schema.names)}"
        )


def check_keys(table: pa.Table, where: str) -> None:
    """Raises a RuntimeError where a key stands twice in a table of results: joins would double it.

    Args:
        table: with a schema of this module's.
        where: what the message calls the table.
    """
    known = version_of(table.schema)
    key = _RESULT_KEYS.get(known[0]) if known else None
    if key is None:
        return
    counts = Counter(table[key].to_pylist())
    twice = next((value for value, count in counts.items() if count > 1), None)
    if twice is not None:
        raise RuntimeError(f"{where}, column {key!r}: {twice!r} stands {counts[twice]} times")


def _holds(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast keeps the meaning: 1.5 is no text and no whole number, nor is true."""
    if pa.types.is_dictionary(given):
        given = given.value_type
    if wanted == pa.string():
        return _is_text(given) or pa.types.is_null(given)
    if pa.types.is_integer(wanted):
        return not pa.types.is_boolean(given) and not _is_text(given)
    return True


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_text(kind)
        for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _check_present(column: pa.ChunkedArray, field: pa.Field, where: str) -> None:
    for row, value in enumerate(column) if column.null_count else ():
        if not value.is_valid:
            raise ValueError(f"{where}, row {row}, column {field.name!r}: value is null")
    # A style's suffix may be empty: the raw style adds no words.
    if pa.types.is_string(field.type) and field.name not in ("suffix", "negative_prompt"):
        for row, text in enumerate(column.to_pylist()):
            if not text.strip():
                raise ValueError(f"{where}, row {row}, column {field.name!r}: value is empty")
