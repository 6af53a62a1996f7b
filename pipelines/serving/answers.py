"""Errors as HTTP answers: our own shape, and OpenAI's on its routes."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import JSONResponse

from pipelines.serving.errors import ServiceError

__all__ = ["error_answer", "error_body", "is_openais"]

_OPENAI = re.compile(r"/v1/(images/|models(/|$))")

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def is_openais(path: str) -> bool:
    """Whether OpenAI's clients ask it."""
    return _OPENAI.search(path) is not None


def error_body(error: ServiceError, path: str) -> dict[str, Any]:
    """The JSON of an error on that path."""
    body = error.body()
    if is_openais(path):
        other = "server_error" if error.status >= 500 else "invalid_request_error"
        body["error"] |= {"type": _TYPES.get(error.status, other), "param": error.param}
    return body


def error_answer(error: ServiceError, path: str) -> JSONResponse:
    """The answer to a request for that path."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # OpenAI has no 422: its client would not know the exception.
    status = 400 if error.status == 422 and is_openais(path) else error.status
    return JSONResponse(error_body(error, path), status, headers)
