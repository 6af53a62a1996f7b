"""People, scores, and the small answers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, Path, Request, UploadFile
from fastapi.responses import PlainTextResponse, Response
from numpy.typing import NDArray

from infinite_id.faces.photos import PhotoError, decode_photo
from pipelines.serving.about import Method, Sample, Settings, Style, methods_of
from pipelines.serving.access import Owner, Route, Served, Until, form_of
from pipelines.serving.bodies import Clean, Readable, TokensBody
from pipelines.serving.errors import ServiceError
from pipelines.serving.faces import described
from pipelines.serving.openapi import BINARY, ERRORS, Person, TokenCount
from pipelines.serving.page import sample_names, sample_photo

__all__ = ["probes", "router"]

router = APIRouter(responses=ERRORS, route_class=Route)
probes = APIRouter(responses={code: ERRORS[code] for code in (400, 413, 503)})


def _face(text: str) -> int | str:
    if text in ("single", "largest"):
        return text
    if text.isdecimal() and len(text) < 4:
        return int(text)
    raise ServiceError(422, "invalid_request", "face: allowed are single, largest or a number.")


def _data(image: bytes) -> str:
    return base64.b64encode(image).decode()


@router.post(
    "/v1/identities",
    status_code=201,
    response_model=Person,
    dependencies=[form_of("sample", "face", "class_word", "keep_photos", several=("photos",))],
)
async def add_identity(
    service: Served,
    owner: Owner,
    deadline: Until,
    photos: Annotated[list[UploadFile] | None, File(description="of one person")] = None,
    sample: Annotated[str | None, Form(description="instead of photos: of /v1/samples")] = None,
    face: Annotated[str, Form(description="single, largest, or a number from the left")] = "single",
    class_word: Annotated[str, Form(min_length=1, max_length=40), Readable] = "person",
    keep_photos: Annotated[bool, Form(description="as long as the embedding")] = False,
) -> dict[str, Any]:
    """Embeds a person from photos and keeps the embedding for a while, not the photos.

    With `keep_photos` they are kept as well, as JPEG without metadata, for whoever shows later whom
    a picture was made of.
    """
    if (photos is None) == (sample is None):
        raise ServiceError(422, "who", "Exactly one of photos and sample must be given.")
    if sample is not None:
        data = [sample_photo(sample)]
    else:
        data = [await photo.read() for photo in photos or ()]
    person = await service.embed(deadline, data, _face(face), class_word, owner, keep_photos)
    await service.state.add(deadline, person)
    return {
        "identity_id": person.identity.identity_id,
        "expires_in_seconds": service.config.identity_ttl_seconds,
        "photos_kept": len(person.photos),
        "faces": [described(found.bbox, found.det_score, found.aligned) for found in person.faces],
    }


@router.get(
    "/v1/identities/{identity_id}/photos/{number}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": BINARY}}}},
)
async def kept_photo(
    service: Served,
    owner: Owner,
    deadline: Until,
    identity_id: str,
    number: Annotated[int, Path(ge=0, lt=1000)],
) -> Response:
    """A photo that was kept at its uploader's wish, by its number from 0."""
    photo = await service.state.photo(deadline, identity_id, owner, number)
    return Response(photo, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.delete("/v1/identities/{identity_id}", status_code=204)
async def remove_identity(service: Served, owner: Owner, deadline: Until, identity_id: str) -> None:
    """Forgets a person at once."""
    await service.state.remove(deadline, identity_id, owner)


@router.post("/v1/tokens", response_model=TokenCount)
async def tokens(service: Served, owner: Owner, body: TokensBody) -> dict[str, int | None]:
    """How many tokens a prompt has with its style, and how many there may be; uses up no rate."""
    return service.count_tokens(body)


@router.get("/v1/styles", response_model=list[Style])
async def styles(service: Served, owner: Owner) -> list[dict[str, Any]]:
    """The style sheet."""
    return [
        {"style": name, "suffix": style.words, "negative_prompt": style.negative_prompt}
        for name, style in service.styles.items()
    ]


@router.get("/v1/samples", response_model=list[Sample])
async def samples(owner: Owner) -> list[dict[str, str]]:
    """People who do not exist, each a name for `sample` of /v1/identities and a base64 PNG."""
    return [{"name": name, "png": _data(sample_photo(name))} for name in sample_names()]


@router.get("/v1/methods", response_model=list[Method])
async def methods(service: Served, owner: Owner) -> list[dict[str, Any]]:
    """The methods offered; the first is the default."""
    return methods_of(service.revisions, service.config.methods)


@router.get("/v1/settings", response_model=Settings)
async def settings(service: Served, owner: Owner) -> dict[str, Any]:
    """Defaults and limits of requests, and what the scores mean."""
    return service.about()


@router.post("/v1/score", dependencies=[form_of("image", "prompt", "identity_id")])
async def score(
    service: Served,
    owner: Owner,
    deadline: Until,
    image: Annotated[UploadFile, File()],
    prompt: Annotated[str, Form(max_length=10_000), Clean] = "",
    identity_id: Annotated[str | None, Form()] = None,
) -> dict[str, float | None]:
    """Scores of a picture against a prompt and, where given, a person."""
    references: Sequence[NDArray[np.uint8]] = ()
    if identity_id:
        references = (await service.state.get(deadline, identity_id, owner)).identity.images
    data = await image.read()

    service.check_tokens("prompt", prompt)

    def work() -> dict[str, float | None]:
        try:
            return service.score([decode_photo(data, service.limits)], [prompt], references)[0]
        except PhotoError as error:
            raise ServiceError(422, error.reason, f"{error}.") from None
        except ValueError as error:
            raise ServiceError(422, "refused", f"{error}.") from None

    service.worker.check()
    return await service.worker.run(deadline, work)


@probes.get("/healthz")
async def healthy() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@probes.get("/readyz")
async def ready(service: Served) -> dict[str, str]:
    """Pictures can be made."""
    if not service.backend.ready:
        raise ServiceError(503, "not_ready", "The service is not ready.", 2)
    return {"status": "ready"}


@probes.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(request.app.state.measures.text(), media_type="text/plain; version=0.0.4")
