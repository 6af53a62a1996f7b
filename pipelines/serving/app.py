"""The HTTP side: FastAPI routes over a `Service`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from infinite_id.photos import PhotoError, decode_photo
from infinite_id.types import GeneratedImage
from pipelines.images import encode_image
from pipelines.serving.batcher import Event
from pipelines.serving.body_limit import BodyLimit
from pipelines.serving.errors import ServiceError
from pipelines.serving.measures import Measures
from pipelines.serving.page import mount_page
from pipelines.serving.people import Person
from pipelines.serving.samples import sample_names, sample_photo
from pipelines.serving.schemas import GenerateBody
from pipelines.serving.service import Order, Service

__all__ = ["create_app"]

T = TypeVar("T")
_POLL_SECONDS = 0.2
router = APIRouter()


def create_app(make_service: Callable[[], Service]) -> FastAPI:
    """The application; `make_service` loads the models when it starts."""
    measures = Measures()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await asyncio.to_thread(make_service)
        app.state.limit.most = app.state.service.config.max_body_bytes
        yield
        await asyncio.to_thread(app.state.service.close)

    app = FastAPI(
        title="Infinite-ID", version="1", lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.measures = measures
    app.state.limit = BodyLimit.Limit()
    app.add_middleware(BodyLimit, limit=app.state.limit)
    app.include_router(router)
    mount_page(app)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app


async def _service_error(request: Request, error: Any) -> Response:
    request.app.state.measures.errors.labels(error.code).inc()
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


async def _validation_error(request: Request, error: Any) -> Response:
    # Pydantic's own answer repeats the input: a photo, a prompt, or NaN that is no JSON.
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return await _service_error(
        request, ServiceError(422, "invalid_request", f"{where}: {first['msg']}.")
    )


async def _http_error(request: Request, error: Any) -> Response:
    body = {"error": {"code": f"http_{error.status_code}", "message": f"{error.detail}."}}
    return JSONResponse(body, error.status_code, error.headers)


def _service(request: Request) -> Service:
    return request.app.state.service


def _owner(request: Request, service: Annotated[Service, Depends(_service)]) -> str:
    # A plain function: scrypt would hold the event loop.
    owner = service.keys.owner(request.headers.get("authorization"))
    service.rates.take(owner)
    return owner


Served = Annotated[Service, Depends(_service)]
Owner = Annotated[str, Depends(_owner)]


async def _work(service: Service, what: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(service.worker, what, *args)


def _face(text: str) -> int | str:
    if text in ("single", "largest"):
        return text
    if text.isdecimal() and len(text) < 4:
        return int(text)
    raise ServiceError(422, "invalid_request", "face: allowed are single, largest or a number.")


def _data(image: bytes) -> str:
    return base64.b64encode(image).decode()


@router.post("/v1/identities", status_code=201)
async def add_identity(
    service: Served,
    owner: Owner,
    photos: Annotated[list[UploadFile] | None, File(description="of one person")] = None,
    sample: Annotated[str | None, Form(description="instead of photos: of /v1/samples")] = None,
    face: Annotated[str, Form(description="single, largest, or a number from the left")] = "single",
    class_word: Annotated[str, Form(min_length=1, max_length=40)] = "person",
) -> dict[str, Any]:
    """Embeds a person from photos and keeps the embedding for a while, not the photos."""
    if (photos is None) == (sample is None):
        raise ServiceError(422, "who", "Exactly one of photos and sample must be given.")
    if sample is not None:
        data = [sample_photo(sample)]
    else:
        data = [await photo.read() for photo in photos or ()]
    person = await _work(service, service.person, data, _face(face), class_word, owner)
    service.people.add(person)
    return {
        "identity_id": person.identity.identity_id,
        "expires_in_seconds": service.config.identity_ttl_seconds,
        "faces": [
            {
                "bbox": [round(float(value), 1) for value in found.bbox],
                "score": found.det_score,
                "crop_png": _data(encode_image(found.aligned, generated=False)),
            }
            for found in person.faces
        ],
    }


@router.delete("/v1/identities/{identity_id}", status_code=204)
async def remove_identity(service: Served, owner: Owner, identity_id: str) -> None:
    """Forgets a person at once."""
    service.people.remove(identity_id, owner)


@router.get("/v1/styles")
async def styles(service: Served, owner: Owner) -> list[dict[str, Any]]:
    """The style sheet."""
    return list(service.styles.values())


@router.get("/v1/samples")
async def samples(owner: Owner) -> list[dict[str, str]]:
    """People who do not exist, each a name for `sample` of /v1/identities and a base64 PNG."""
    return [{"name": name, "png": _data(sample_photo(name))} for name in sample_names()]


@router.get("/v1/methods")
async def methods(service: Served, owner: Owner) -> list[dict[str, Any]]:
    """The methods offered; the first is the default."""
    return service.describe_methods()


@router.get("/v1/settings")
async def settings(service: Served, owner: Owner) -> dict[str, Any]:
    """Defaults and limits of requests, and what the scores mean."""
    return service.describe_settings()


@router.post("/v1/generate", response_model=None)
async def generate(
    request: Request, service: Served, owner: Owner, body: GenerateBody
) -> Response | dict[str, Any]:
    """Pictures of a person or a mix, as JSON, as one image file, or as server-sent events."""
    if body.response == "image" and (body.n > 1 or body.stream):
        message = "response image allows one picture without stream."
        raise ServiceError(422, "invalid_request", message)
    inline: Person | None = None
    if body.photos is not None:
        photos = service.photos(body.photos)
        inline = await _work(service, service.person, photos, body.face, "person", owner)
    order = service.order(body, owner, inline)
    events = service.backend.events(
        order.requests, order.people, service.config.request_timeout_seconds
    )
    first = await anext(events)
    if first[0] == "error":
        raise first[1]
    if body.stream:
        return StreamingResponse(
            _stream(request, service, order, body, owner, events),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )
    made = await _unless_gone(request, _images(events))
    files, scores = await _work(service, service.finish, order, made, body, owner)
    request.app.state.measures.pictures.inc(len(files))
    if body.response == "image":
        headers = {"X-Sample-Id": made[0].sample_id, "Cache-Control": "no-store"}
        return Response(files[0], media_type=f"image/{body.format}", headers=headers)
    return _answer(service, order, body, made, files, scores)


def _answer(
    service: Service,
    order: Order,
    body: GenerateBody,
    made: list[GeneratedImage],
    files: list[bytes],
    scores: list[dict[str, float | None]],
) -> dict[str, Any]:
    return {
        "untrained": service.untrained,
        "images": [
            {
                "sample_id": wanted.sample_id,
                "seed": wanted.seed,
                "method": wanted.method,
                "seconds": picture.seconds,
                "format": body.format,
                "data": _data(file),
                "scores": score,
            }
            for wanted, picture, file, score in zip(
                order.requests, made, files, scores, strict=True
            )
        ],
    }


async def _images(events: AsyncIterator[Event]) -> list[GeneratedImage]:
    async with contextlib.aclosing(events):  # type: ignore[type-var]
        async for kind, value in events:
            if kind == "error":
                raise value
            if kind == "images":
                return value
    raise ServiceError(503, "replica_lost", "The generation ended without an answer.", 5)


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of `work`, which is cancelled when the client disconnects."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_POLL_SECONDS))[0]:
            if await request.is_disconnected():
                raise ServiceError(499, "disconnected", "The client has gone.")
        return task.result()
    finally:
        task.cancel()


async def _stream(
    request: Request,
    service: Service,
    order: Order,
    body: GenerateBody,
    owner: str,
    events: AsyncIterator[Event],
) -> AsyncIterator[str]:
    yield _event("queued", {"pictures": len(order.requests)})
    async with contextlib.aclosing(events):  # type: ignore[type-var]
        async for kind, value in events:
            if kind == "step":
                yield _event("step", {"step": value[0], "steps": value[1]})
            elif kind == "error":
                told = {"status": value.status, "retry_after": value.retry_after}
                yield _event("error", {**value.body()["error"], **told})
            elif kind == "images":
                files, scores = await _work(service, service.finish, order, value, body, owner)
                request.app.state.measures.pictures.inc(len(files))
                yield _event("result", _answer(service, order, body, value, files, scores))


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@router.post("/v1/score")
async def score(
    service: Served,
    owner: Owner,
    image: Annotated[UploadFile, File()],
    prompt: Annotated[str, Form(max_length=10_000)] = "",
    identity_id: Annotated[str | None, Form()] = None,
) -> dict[str, float | None]:
    """Scores of a picture against a prompt and, where given, a person."""
    references = service.people.get(identity_id, owner).identity.images if identity_id else ()
    data = await image.read()

    def work() -> dict[str, float | None]:
        try:
            return service.score([decode_photo(data)], [prompt], references)[0]
        except PhotoError as error:
            raise ServiceError(422, error.reason, f"{error}.") from None
        except ValueError as error:
            raise ServiceError(422, "refused", f"{error}.") from None

    return await _work(service, work)


@router.get("/healthz")
async def healthy() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(service: Served) -> dict[str, str]:
    """Pictures can be made."""
    if not service.backend.ready:
        raise ServiceError(503, "not_ready", "The service is not ready.", 2)
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(request.app.state.measures.text(), media_type="text/plain; version=0.0.4")
