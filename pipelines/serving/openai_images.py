"""The shape of OpenAI's image endpoints, for clients that speak it.

A picture shows a person: `identity_id`, an extension, says who. On `edits` the uploaded photos say
it where there is no `identity_id`; with one, `image` is the picture to be edited and `mask` where,
as OpenAI has them. Pictures come as base64: the service keeps none that a URL could name.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from infinite_id.faces.photos import PhotoError, decode_alpha
from pipelines.serving.access import Owner, Route, Served, Until, form_of
from pipelines.serving.bodies import Clean, Finite, GenerateBody, Prompt
from pipelines.serving.errors import ServiceError
from pipelines.serving.generate import Job, unless_gone
from pipelines.serving.openapi import ERRORS, Images, Model, Models
from pipelines.serving.service import Service
from pipelines.serving.worker import Deadline
from pipelines.tables.pictures import encode_image

__all__ = ["EditForm", "GenerationsBody", "router"]

router = APIRouter(responses=ERRORS, route_class=Route)
# Our names of their fields.
_PARAMS = {
    "method": "model",
    "height": "size",
    "width": "size",
    "photos": "image",
    "mask_image": "mask",
}


class _Common(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: Prompt = Field(description="may hold {subject}")
    model: str | None = Field(None, description="a method of /v1/methods")
    n: int | None = Field(None, ge=1)
    size: str | None = Field(None, pattern=r"^(auto|\d{1,5}x\d{1,5})$", description="64x64 or auto")
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    user: str | None = Field(None, max_length=1000, description="not read and not kept")
    style: str | None = Field(None, description="extension: of /v1/styles")
    negative_prompt: Annotated[str, Clean] | None = Field(None, description="extension")
    seed: int = Field(0, ge=0, lt=2**63, description="extension: picture number i has seed + i")
    steps: int | None = Field(None, ge=1, description="extension")
    guidance_scale: Annotated[Finite | None, Field(ge=0, description="extension")] = None


class GenerationsBody(_Common):
    """JSON of `POST /v1/images/generations`."""

    identity_id: str | None = Field(None, description="extension: of /v1/identities")


class EditForm(_Common):
    """Form of `POST /v1/images/edits`; one photo is named `image`, several `image[]`."""

    image: list[UploadFile] = Field(
        default_factory=list,
        description="photos of one person; with identity_id the picture to be edited",
    )
    # What OpenAI's clients call several; in a schema it would be a second name of one thing.
    images: SkipJsonSchema[list[UploadFile]] = Field(default_factory=list, alias="image[]")
    face: int | Literal["single", "largest"] = Field("single", description="extension")
    identity_id: str | None = Field(None, description="extension: of /v1/identities")
    mask: UploadFile | None = Field(
        None,
        description="with identity_id: transparent where the picture is made anew; default: the "
        "picture's own transparency",
    )
    strength: Annotated[
        Finite | None, Field(gt=0, le=1, description="extension, with identity_id; default 0.8")
    ] = None


@router.get("/v1/models", response_model=Models)
async def models(service: Served, owner: Owner) -> dict[str, Any]:
    """The methods, as OpenAI lists models."""
    return {"object": "list", "data": [_model(name) for name in service.config.methods]}


@router.get("/v1/models/{name}", response_model=Model)
async def model(service: Served, owner: Owner, name: str) -> dict[str, Any]:
    """One method, as OpenAI describes a model."""
    return _model(_offered(service, name))


@router.post("/v1/images/generations", response_model=Images)
async def generations(
    request: Request, service: Served, owner: Owner, deadline: Until, body: GenerationsBody
) -> dict[str, Any]:
    """Pictures of an uploaded person."""
    if body.identity_id is None:
        message = "identity_id is missing, allowed: an id of /v1/identities; edits takes a photo."
        raise ServiceError(422, "who", message, param="identity_id")
    return await _make(request, service, owner, deadline, body, None)


@router.post(
    "/v1/images/edits",
    response_model=Images,
    dependencies=[
        form_of(
            *_Common.model_fields,
            "face",
            "identity_id",
            "mask",
            "strength",
            several=("image", "image[]"),
        )
    ],
)
async def edits(
    request: Request,
    service: Served,
    owner: Owner,
    deadline: Until,
    form: Annotated[EditForm, Form(media_type="multipart/form-data")],
) -> dict[str, Any]:
    """New pictures of the person in the uploaded photos, who is not kept; or, with identity_id,
    that person put into the uploaded picture."""
    photos = [await photo.read() for photo in (*form.image, *form.images)]
    if not photos:
        raise ServiceError(422, "who", "image is missing, allowed: photos.", param="image")
    if form.identity_id is None:
        for name in ("mask", "strength"):
            if getattr(form, name) is not None:
                message = f"{name} is given without identity_id, allowed: with identity_id."
                raise ServiceError(422, "invalid_request", message, param=name)
        return await _make(request, service, owner, deadline, form, photos)
    if len(photos) > 1 or form.face != "single":
        what = "face is given" if form.face != "single" else f"image is {len(photos)} files"
        message = f"{what} with identity_id, allowed: one picture to be edited."
        raise ServiceError(422, "invalid_request", message, param=what.partition(" ")[0])
    mask = None if form.mask is None else await form.mask.read()
    cover = await _white(service, deadline, photos[0], mask)
    begun = {"image": _base64(photos[0]), "mask_image": cover, "strength": form.strength}
    return await _make(request, service, owner, deadline, form, None, begun)


async def _white(
    service: Service, deadline: Deadline, image: bytes, mask: bytes | None
) -> str | None:
    """The mask in base64, white where it was transparent. Without one the picture's own
    transparency is it, as OpenAI has it; None: it has none."""

    def work() -> str | None:
        try:
            alpha = decode_alpha(image if mask is None else mask, service.limits)
        except PhotoError as error:
            if mask is None:  # an opaque picture, or one that cannot be used, as is told of it
                return None
            message = f"mask cannot be used: {error}."
            raise ServiceError(422, error.reason, message, param="mask") from None
        if mask is None and alpha.min() >= 128:
            return None
        white = np.where(alpha < 128, np.uint8(255), np.uint8(0))
        return _base64(encode_image(np.repeat(white[:, :, None], 3, axis=2), generated=False))

    service.worker.check()
    return await service.worker.run(deadline, work)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def _make(
    request: Request,
    service: Service,
    owner: str,
    deadline: Deadline,
    asked: GenerationsBody | EditForm,
    photos: Sequence[bytes] | None,
    begun: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    body = _translated(service, asked, begun or {})
    try:
        job = await unless_gone(request, Job.begin(service, body, owner, deadline, photos))
        made = await unless_gone(request, job.made())
    except ServiceError as error:
        error.param = _PARAMS.get(error.param or "", error.param)
        raise
    first = made.order.requests[0]
    return {
        "created": int(time.time()),
        "data": [{"b64_json": _base64(file)} for file in made.files],
        "output_format": body.format,
        "size": f"{first.width}x{first.height}",
    }


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "infinite-id"}


def _offered(service: Service, name: str) -> str:
    if name not in service.config.methods:
        message = f"The model is unknown, allowed: {', '.join(service.config.methods)}."
        raise ServiceError(404, "model_not_found", message, param="model")
    return name


def _translated(
    service: Service, asked: GenerationsBody | EditForm, begun: Mapping[str, Any]
) -> GenerateBody:
    if asked.response_format == "url":
        message = "response_format is url, allowed: b64_json, for no picture is kept."
        raise ServiceError(422, "unsupported_value", message, param="response_format")
    if asked.model is not None:
        _offered(service, asked.model)
    width, height = None, None
    if asked.size not in (None, "auto"):
        width, height = map(int, str(asked.size).split("x"))
    if isinstance(asked, EditForm) and asked.identity_id is None:
        who: dict[str, Any] = {"photos": ["form"], "face": asked.face}
    else:
        who = {"identity_id": asked.identity_id}
    return GenerateBody(
        **who,
        **begun,
        prompt=asked.prompt,
        method=asked.model,
        style=asked.style,
        negative_prompt=asked.negative_prompt,
        seed=asked.seed,
        n=asked.n or 1,
        height=height,
        width=width,
        steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        format=asked.output_format or "png",
    )
