"""What `/openapi.json` says beyond the routes' own types: errors, keys, streams and pictures."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from pipelines.serving.answers import is_openais

__all__ = [
    "BINARY",
    "ERRORS",
    "PICTURES",
    "Images",
    "Model",
    "Models",
    "Person",
    "TokenCount",
    "describe",
]

BINARY = {"type": "string", "format": "binary"}


class Face(BaseModel):
    """A face that was found in a photo."""

    bbox: list[float] = Field(description="xyxy in pixels of the upright photo")
    score: float
    crop_png: str = Field(description="base64, 112 x 112 px")


class ErrorDetail(BaseModel):
    """What went wrong: `code` is stable, `message` is a sentence."""

    code: str
    message: str
    type: str | None = Field(None, description="on OpenAI's paths")
    param: str | None = Field(None, description="on OpenAI's paths: the field that is wrong")
    photo: int | None = Field(None, description="of several: the one with several faces")
    faces: list[Face] | None = Field(None, description="those of that photo, for face")


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail


class Person(BaseModel):
    """Someone embedded."""

    identity_id: str = Field(description="works like a password for this person")
    expires_in_seconds: float
    photos_kept: int
    faces: list[Face] = Field(description="one a photo")


class TokenCount(BaseModel):
    """null: this service does not know the tokenizer, and only the generator counts."""

    tokens: int | None
    max_tokens: int | None


class Model(BaseModel):
    """A method, as OpenAI describes a model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """The methods, as OpenAI lists models."""

    object: Literal["list"]
    data: list[Model]


class Image(BaseModel):
    """A picture, as OpenAI delivers it."""

    b64_json: str


class Images(BaseModel):
    """Pictures, as OpenAI delivers them."""

    created: int
    data: list[Image]
    output_format: Literal["png", "webp", "jpeg"]
    size: str


_WHAT = {
    400: "The request cannot be read.",
    401: "The API key is missing or unknown.",
    403: "Host or Origin may not use a service without keys.",
    404: "There is no such person, photo or model.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    415: "The body is of a kind that the path does not read.",
    422: "A value is out of range, unknown, or refused.",
    429: "The rate of the key, or of failures, is used up; see Retry-After.",
    500: "The service has failed.",
    503: "The service is full or loses a part; see Retry-After.",
    504: "The time is over.",
}
_NUMBER, _TEXT = {"schema": {"type": "integer"}}, {"schema": {"type": "string"}}
# Of answers that tell something in their headers.
_HEADERS = {
    200: {
        "X-Sample-Id": {"description": "of an image file", **_TEXT},
        "X-Blurred": {"description": "true where the safety check blurred it", **_TEXT},
    },
    401: {"WWW-Authenticate": {"description": "Bearer", **_TEXT}},
    429: {"Retry-After": {"description": "seconds", **_NUMBER}},
    503: {"Retry-After": {"description": "seconds", **_NUMBER}},
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "model": ErrorBody, "headers": _HEADERS.get(status, {})}
    for status, what in _WHAT.items()
}
"""Answers that every route with a key may give."""


_ERROR = {"$ref": "#/components/schemas/ErrorBody"}


Box = list[float]


class PersonSeen(BaseModel):
    """What a picture shows of one person of its group."""

    number: int = Field(description="of the person, in the order of the request")
    faces: int = Field(description="of the picture")
    region: Box | None = Field(description="x0, y0, x1, y1 in fractions of the picture")
    face_in_region: Box | None = Field(description="null: none")
    matched_face: Box | None = Field(description="the person's by identity; null: none")
    identity: float | None = Field(description="cosine of that face to the person")
    group_margin: float | None = Field(
        description="that, less the highest cosine of the face to another person of the group"
    )
    identity_in_region: float | None
    mixed_up: bool | None = Field(description="the face in the region is another person's")


class Picture(BaseModel):
    """A picture as it is delivered."""

    sample_id: str
    seed: int
    method: str
    seconds: float
    format: Literal["png", "webp", "jpeg"]
    data: str = Field(description="base64")
    scores: dict[str, float | None]
    regions: list[Box] | None = Field(description="of a group's people, given or found")
    people: list[PersonSeen] = Field(description="with a group and scores")
    blurred: bool
    details: int | None = Field(description="small faces made again; null: none are looked for")


class Pictures(BaseModel):
    """The answer of `/v1/generate` as JSON."""

    untrained: bool = Field(description="nobody trained the weights: pictures are noise")
    images: list[Picture]


PICTURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON; one file with `response: image`; events with `stream`.",
        "model": Pictures,
        "headers": _HEADERS[200],
        "content": {
            "text/event-stream": {"schema": {"type": "string"}},
            **{f"image/{kind}": {"schema": BINARY} for kind in ("png", "webp", "jpeg")},
        },
    }
}
"""Answers of `/v1/generate`."""


def describe(app: FastAPI) -> None:
    """Makes `app.openapi()` whole."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description="Pictures of a person: identities, generation, scores.",
        routes=app.routes,
        servers=[{"url": "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemes = document["components"].setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            # Without keys none is asked for.
            operation["security"] = [{"key": []}, {}] if path.startswith("/v1/") else []
            if "requestBody" not in operation:
                operation["responses"].pop("415", None)
            if is_openais(path):
                operation["responses"].pop("422", None)
            for status, answer in operation["responses"].items():
                # FastAPI writes a model under the media type of the route's own answer.
                if status >= "400":
                    answer["content"] = {"application/json": {"schema": _ERROR}}
    _name_files(document["components"]["schemas"])
    return document


def _name_files(schema: Any) -> None:
    """Says of each uploaded file that it is one in the older way too, which generators read."""
    values = schema.values() if isinstance(schema, dict) else schema
    if isinstance(schema, dict) and schema.get("contentMediaType") == "application/octet-stream":
        schema["format"] = "binary"
    for value in values:
        if isinstance(value, dict | list):
            _name_files(value)
