"""What both clients send and how they read it, without sending anything."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import httpx

from infinite_id.client.errors import ServiceError
from infinite_id.client.results import Event, Generation, Identity, Preview, Queued, Step

__all__ = [
    "EventReader",
    "GenerateOptions",
    "Photo",
    "Who",
    "access",
    "generate_body",
    "identity_form",
    "score_form",
    "who_id",
]

Photo = str | os.PathLike[str] | bytes
"""A path, or the bytes of an image file."""

Who = Identity | str
"""A person, or their identity_id."""


class GenerateOptions(TypedDict, total=False):
    """What may be said of pictures; what is left out is the service's default."""

    method: str
    style: str
    negative_prompt: str
    seed: int
    n: int
    height: int
    width: int
    steps: int
    guidance_scale: float
    identity_scale: float
    format: Literal["png", "webp", "jpeg"]
    scores: bool
    previews: int
    mix_mode: Literal["interpolate", "stack"]
    face: int | Literal["single", "largest"]
    regions: Sequence[Sequence[float]]
    image: Photo
    mask_image: Photo
    strength: float
    control_image: Photo
    control_keypoints: Sequence[tuple[float, float]]
    controlnet_conditioning_scale: float
    control_guidance_start: float
    control_guidance_end: float
    control_streams: Literal["both", "text"]
    details: bool


def access(server: str | None, api_key: str | None, timeout: float) -> tuple[str, dict[str, Any]]:
    """The address without a slash at its end, and arguments of httpx's clients for it.

    Raises:
        ValueError: the address is not http or https.
    """
    address = server or os.environ.get("INFINITE_ID_SERVER") or "http://127.0.0.1:8000"
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"server is {address!r}, allowed: http://HOST:PORT or https://HOST")
    key = api_key or os.environ.get("INFINITE_ID_API_KEY")
    address = address.rstrip("/")
    return address, {
        "base_url": address,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(timeout, connect=min(timeout, 5.0)),
    }


def _photo_bytes(photo: Photo) -> bytes:
    """The file's bytes. Raises OSError where the path cannot be read."""
    return photo if isinstance(photo, bytes) else Path(photo).read_bytes()


def identity_form(
    photos: Sequence[Photo],
    sample: str | None,
    face: int | str,
    class_word: str,
    keep_photos: bool,
) -> dict[str, Any]:
    """Arguments of httpx for /v1/identities."""
    form: dict[str, Any] = {"data": {"face": str(face), "class_word": class_word}}
    if keep_photos:
        form["data"]["keep_photos"] = "true"
    if sample is not None:
        form["data"]["sample"] = sample
    if photos:
        form["files"] = [
            ("photos", (f"photo-{number}", _photo_bytes(photo)))
            for number, photo in enumerate(photos)
        ]
    return form


def score_form(image: Photo, prompt: str, identity: Who | None) -> dict[str, Any]:
    """Arguments of httpx for /v1/score."""
    data = {"prompt": prompt}
    if identity is not None:
        data["identity_id"] = who_id(identity)
    return {"data": data, "files": {"image": ("image", _photo_bytes(image))}}


def generate_body(
    prompt: str,
    identity: Who | None,
    mix: Mapping[Who, float] | Sequence[Who] | None,
    group: Sequence[Who] | None,
    photos: Sequence[Photo] | None,
    options: GenerateOptions,
) -> dict[str, Any]:
    """The JSON of /v1/generate; the service checks it.

    Raises:
        ValueError: regions without a group, or not one for each of its people.
    """
    body: dict[str, Any] = {"prompt": prompt, **options}
    regions = body.pop("regions", None)
    people = len(group or ())
    if regions is not None and len(regions) != people:
        raise ValueError(f"regions are {len(regions)}, allowed: {people}, one a person of group")
    if group is not None:
        body["group"] = [{"identity_id": who_id(who)} for who in group]
        for member, region in zip(body["group"], regions or (), strict=False):
            member["region"] = list(region)
    if identity is not None:
        body["identity_id"] = who_id(identity)
    if isinstance(mix, Mapping):
        body["mix"] = [
            {"identity_id": who_id(who), "weight": weight} for who, weight in mix.items()
        ]
    elif mix is not None:
        body["mix"] = [{"identity_id": who_id(who)} for who in mix]
    for name in ("image", "mask_image", "control_image"):
        if body.get(name) is not None:
            body[name] = base64.b64encode(_photo_bytes(body[name])).decode()
    if photos is not None:
        body["photos"] = [base64.b64encode(_photo_bytes(photo)).decode() for photo in photos]
    return body


def who_id(who: Who) -> str:
    """The identity_id."""
    return who if isinstance(who, str) else who.identity_id


class EventReader:
    """Server-sent events of /v1/generate, line by line.

    Args:
        body: of the request.
        server: address of the service.
    """

    def __init__(self, body: dict[str, Any], server: str) -> None:
        self._body, self._server = body, server
        self._name, self._data = "", ""

    def feed(self, line: str) -> Event | None:
        """An event once its last line has come.

        Raises:
            ServiceError: the service sent an error.
        """
        field, _, value = line.partition(":")
        if field == "event":
            self._name = value.removeprefix(" ")
        elif field == "data":
            self._data += value.removeprefix(" ")
        elif not line and self._data:
            name, data = self._name, json.loads(self._data)
            self._name, self._data = "", ""
            return self._event(name, data)
        return None

    def _event(self, name: str, data: dict[str, Any]) -> Event | None:
        if name == "error":
            raise ServiceError(
                data.get("status", 500), data["code"], data["message"], data.get("retry_after")
            )
        if name == "result":
            return Generation.of(data, self._body, self._server)
        kinds: dict[str, type[Queued | Step | Preview]] = {
            "queued": Queued,
            "step": Step,
            "preview": Preview,
        }
        # Other names are of a newer service.
        return kinds[name].model_validate(data) if name in kinds else None
