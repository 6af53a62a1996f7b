"""What `/openapi.json` says beyond the routes' own types: errors, keys, streams and pictures."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

__all__ = ["ERRORS", "PICTURES", "describe"]


class ErrorDetail(BaseModel):
    """What went wrong: `code` is stable, `message` is a sentence."""

    # `faces` and `photo` of a photo with several faces.
    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    type: str | None = None
    param: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail


_WHAT = {
    400: "The request cannot be read.",
    401: "The API key is missing or unknown.",
    403: "Host or Origin may not use a service without keys.",
    404: "There is no such person, photo or model.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    422: "A value is out of range, unknown, or refused.",
    429: "The rate of the key, or of failures, is used up; see Retry-After.",
    500: "The service has failed.",
    503: "The service is full or loses a part; see Retry-After.",
    504: "The time is over.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "model": ErrorBody} for status, what in _WHAT.items()
}
"""Answers that every route with a key may give."""


_ERROR = {"$ref": "#/components/schemas/ErrorBody"}


class Picture(BaseModel):
    """A picture as it is delivered."""

    sample_id: str
    seed: int
    method: str
    seconds: float
    format: Literal["png", "webp", "jpeg"]
    data: str
    scores: dict[str, float | None]
    blurred: bool


class Pictures(BaseModel):
    """The answer of `/v1/generate` as JSON."""

    untrained: bool
    images: list[Picture]


PICTURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON; one file with `response: image`; events with `stream`.",
        "model": Pictures,
        "content": {
            "text/event-stream": {"schema": {"type": "string"}},
            **{
                f"image/{kind}": {"schema": {"type": "string", "format": "binary"}}
                for kind in ("png", "webp", "jpeg")
            },
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
            for status, answer in operation["responses"].items():
                # FastAPI writes a model under the media type of the route's own answer.
                if status >= "400":
                    answer["content"] = {"application/json": {"schema": _ERROR}}
    return document
