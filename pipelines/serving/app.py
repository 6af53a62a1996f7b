"""The HTTP side: a FastAPI application over a `Service`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.serving import generate as generation
from pipelines.serving import openai_images, routes
from pipelines.serving.answers import error_answer
from pipelines.serving.callers import Callers
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError
from pipelines.serving.guard import Guard
from pipelines.serving.keys import KeyRing, read_hashes
from pipelines.serving.measures import Measures
from pipelines.serving.openapi import describe
from pipelines.serving.page import mount_page
from pipelines.serving.service import Service
from pipelines.serving.worker import Deadline

__all__ = ["create_app"]

_MOST_PARTS = 64
# Starlette says only "Not Found".
_OWN_WORDS = {
    404: ("unknown_path", "There is no such path: /openapi.json lists those there are."),
    405: (
        "wrong_method",
        "The path does not take this method: the header Allow has those it takes.",
    ),
}


def create_app(
    config: ServiceConfig, make_service: Callable[[], Service], measures: Measures | None = None
) -> FastAPI:
    """The application; `make_service` loads the models when it starts.

    Raises:
        ValueError: a key hash is malformed, or the file of them cannot be read.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            app.state.service = await asyncio.to_thread(make_service)
        except Exception as error:
            # The server says only that the application has not started.
            app.state.failure = error
            raise
        yield
        await asyncio.to_thread(app.state.service.close)

    app = FastAPI(
        title="Infinite-ID",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A thousand empty files would cost half a second in which nobody else is answered.
        form_limits={"max_files": max(_MOST_PARTS, config.max_photos), "max_fields": _MOST_PARTS},
    )
    app.state.measures = measures or Measures()
    hashes = config.key_hashes + (read_hashes(config.key_file) if config.key_file else ())
    callers = Callers(KeyRing(hashes), config.cors_origins, config.failures_per_minute)
    app.state.callers, app.state.failure = callers, None

    async def take(deadline: Deadline, owner: str) -> None:
        await app.state.service.state.take(deadline, owner)

    app.add_middleware(
        Guard, config=config, measures=app.state.measures, callers=callers, take=take
    )
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "X-Sample-Id"],
        )
    for router in (routes.router, routes.probes, generation.router, openai_images.router):
        app.include_router(router, generate_unique_id_function=lambda route: route.name)
    describe(app)
    app.add_middleware(_Head)
    mount_page(app)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app


class _Head:
    """Answers HEAD as GET; servers leave the body away by themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy: the server's own says HEAD.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


async def _service_error(request: Request, error: Any) -> Response:
    request.app.state.measures.record("rejected_total", code=error.code)
    return error_answer(error, request.url.path)


async def _validation_error(request: Request, error: Any) -> Response:
    # Pydantic's own answer repeats the input: a photo, a prompt, or NaN that is no JSON.
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    if first["type"] == "json_invalid":
        message = f"The body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}."
        where = "body"
    else:
        message = f"{where}: {first['msg'].removeprefix('Value error, ')}."
    return await _service_error(request, ServiceError(422, "invalid_request", message, param=where))


async def _http_error(request: Request, error: Any) -> Response:
    code, message = _OWN_WORDS.get(
        error.status_code, ("invalid_request", f"{str(error.detail).rstrip('.')}.")
    )
    told = ServiceError(error.status_code, code, message)
    answer = error_answer(told, request.url.path)
    answer.headers.update(error.headers or {})
    return answer
