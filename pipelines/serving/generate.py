"""/v1/generate: pictures as JSON, as one file, or as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from infinite_id.types import GeneratedImage
from pipelines.serving.access import Owner, Route, Served, Until
from pipelines.serving.answers import error_body
from pipelines.serving.batcher import Event
from pipelines.serving.bodies import GenerateBody
from pipelines.serving.errors import ServiceError
from pipelines.serving.guard import unexpected
from pipelines.serving.openapi import ERRORS, PICTURES
from pipelines.serving.pictures import from_base64
from pipelines.serving.service import Order, People, Service
from pipelines.serving.worker import Deadline

__all__ = ["Job", "Made", "router", "unless_gone"]

T = TypeVar("T")
_POLL_SECONDS = 0.2
router = APIRouter(responses=ERRORS, route_class=Route)


@dataclass(frozen=True, slots=True)
class Made:
    """Finished pictures: what was asked for, what came out, the files, their scores, those of each
    person of a group, and which of them were blurred."""

    order: Order
    pictures: Sequence[GeneratedImage]
    files: Sequence[bytes]
    scores: Sequence[dict[str, float | None]]
    people: Sequence[People]
    blurred: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Job:
    """One caller's request from its check to its pictures."""

    service: Service
    body: GenerateBody
    owner: str
    deadline: Deadline
    order: Order
    events: AsyncIterator[Event]
    before: int
    """Pictures that waited before it."""

    @classmethod
    async def begin(
        cls,
        service: Service,
        body: GenerateBody,
        owner: str,
        deadline: Deadline,
        photos: Sequence[bytes] | None = None,
    ) -> Job:
        """Embeds `photos`, checks the body and takes a place in the queue.

        Raises:
            ServiceError: 4xx or 503.
        """
        inline = None
        if photos is not None:
            inline = await service.embed(deadline, photos, body.face, "person", owner)
        order = await service.order(deadline, body, owner, inline)
        # Pictures that nobody could encode and score in time are not begun.
        service.worker.check()
        previews = body.previews if body.stream else 0
        events = service.backend.events(order.requests, order.people, deadline.left, previews)
        first = await anext(events)
        if first[0] == "error":
            raise first[1]
        return cls(service, body, owner, deadline, order, events, first[1] or 0)

    async def progress(self) -> AsyncGenerator[tuple[str, Any], None]:
        """("step", ...) and ("preview", ...) as of `Batcher`, and ("made", Made) last.

        Raises:
            ServiceError: there will be no pictures.
        """
        async with contextlib.aclosing(self.events):  # type: ignore[type-var]
            async for kind, value in self.events:
                if kind == "error":
                    raise value
                if kind == "images":
                    yield "made", await self._finish(value)
                    return
                if kind == "preview":
                    look = self.service.may_show
                    if not await self.service.worker.run(self.deadline, look, value[2]):
                        continue
                yield kind, value
        raise ServiceError(503, "replica_lost", "The generation ended without an answer.", 5)

    async def made(self) -> Made:
        """The pictures."""
        async with contextlib.aclosing(self.progress()) as progress:
            async for kind, value in progress:
                if kind == "made":
                    return value
        raise AssertionError("progress ends with pictures or raises")

    async def _finish(self, pictures: Sequence[GeneratedImage]) -> Made:
        files, scores, people, blurred = await self.service.worker.run(
            self.deadline, self.service.finish, self.order, pictures, self.body, self.owner
        )
        self.service.measures.record("pictures_total", len(files))
        return Made(self.order, pictures, files, scores, people, blurred)


@router.post("/v1/generate", response_model=None, responses=PICTURES)
async def generate(
    request: Request, service: Served, owner: Owner, deadline: Until, body: GenerateBody
) -> Response | dict[str, Any]:
    """Pictures of a person, a mix or a group: JSON, one image file, or server-sent events."""
    photos = None if body.photos is None else from_base64(body.photos)
    job = await unless_gone(request, Job.begin(service, body, owner, deadline, photos))
    if body.stream:
        return StreamingResponse(
            _stream(request, job),
            media_type="text/event-stream",
            # An answer to POST is not kept anyway; no-store would make Chromium report a stream
            # that a page has read to its end as aborted.
            headers={"Cache-Control": "private, no-cache"},
        )
    made = await unless_gone(request, job.made())
    if body.response == "image":
        headers = {"X-Sample-Id": made.pictures[0].sample_id, "Cache-Control": "no-store"}
        if made.blurred[0]:
            headers["X-Blurred"] = "true"
        return Response(made.files[0], media_type=f"image/{body.format}", headers=headers)
    return _answer(job, made)


def _answer(job: Job, made: Made) -> dict[str, Any]:
    columns = (made.pictures, made.files, made.scores, made.people, made.blurred)
    rows = zip(made.order.requests, *columns, strict=True)
    return {
        "untrained": job.service.untrained,
        "images": [
            {
                "sample_id": wanted.sample_id,
                "seed": wanted.seed,
                "method": wanted.method,
                "seconds": picture.seconds,
                "format": job.body.format,
                "data": base64.b64encode(file).decode(),
                "scores": scores,
                "regions": picture.regions,
                "people": people,
                "blurred": blurred,
                "details": picture.details if wanted.details else None,
            }
            for wanted, picture, file, scores, people, blurred in rows
        ],
    }


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_POLL_SECONDS))[0]:
            if await request.is_disconnected():
                raise ServiceError(499, "disconnected", "The client has gone.")
        return task.result()
    finally:
        task.cancel()


async def _stream(request: Request, job: Job) -> AsyncIterator[str]:
    yield _event("queued", {"pictures": len(job.order.requests), "before": job.before})
    try:
        async with contextlib.aclosing(job.progress()) as progress:
            async for kind, value in progress:
                if kind == "step":
                    yield _event("step", {"step": value[0], "steps": value[1]})
                elif kind == "preview":
                    step, index, jpeg = value
                    image = base64.b64encode(jpeg).decode()
                    yield _event("preview", {"step": step, "index": index, "image": image})
                elif kind == "made":
                    yield _event("result", _answer(job, value))
    except Exception as failure:
        # The status is sent already: an event has to say it.
        error = failure if isinstance(failure, ServiceError) else unexpected(failure)
        request.app.state.measures.record("rejected_total", code=error.code)
        told = {"status": error.status, "retry_after": error.retry_after}
        yield _event("error", {**error_body(error, request.url.path)["error"], **told})


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
