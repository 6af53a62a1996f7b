"""Bodies of requests; limits that depend on the configuration are checked in `service`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from unicodedata import category

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from infinite_id.control_image import ControlStreams
from pipelines.tables.mixes_and_groups import MOST_PEOPLE

__all__ = [
    "Clean",
    "Finite",
    "GenerateBody",
    "Member",
    "Part",
    "Prompt",
    "Readable",
    "TokensBody",
]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Point = Annotated[list[Share], Field(min_length=2, max_length=2)]
_CONTROL = {
    "controlnet_conditioning_scale": 1.0,
    "control_guidance_start": 0.0,
    "control_guidance_end": 1.0,
    "control_streams": "both",
}


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("the text holds the character NUL")
    return text


def _readable(text: str) -> str:
    # Characters of no width are no text either.
    if all(c.isspace() or category(c) == "Cf" for c in _without_nul(text)):
        raise ValueError("the text is blank")
    return text


Clean, Readable = AfterValidator(_without_nul), AfterValidator(_readable)
"""Of texts: without the character NUL; and with something to read."""

Prompt = Annotated[str, Field(min_length=1), Readable]


class Part(BaseModel):
    """One person of a mix."""

    model_config = ConfigDict(extra="forbid")

    identity_id: str
    weight: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        None, description="interpolate: weights sum to 1; stack: none is given"
    )


class Member(BaseModel):
    """One person of a group."""

    model_config = ConfigDict(extra="forbid")

    identity_id: str
    region: Annotated[list[Share], Field(min_length=4, max_length=4)] | None = Field(
        None,
        description="x0, y0, x1, y1 in fractions of the picture; of each person or of none: then "
        "the prompt's own faces are given out left to right",
    )


_GROUP: dict[str, Any] = {
    "prompt": "two people, a {subject} on the beach",
    "group": [
        {"identity_id": "ID of /v1/identities", "region": [0, 0, 0.5, 1]},
        {"identity_id": "another one", "region": [0.5, 0, 1, 1]},
    ],
}


class GenerateBody(BaseModel):
    """Who, what and how; exactly one of `identity_id`, `mix`, `group` and `photos` says who."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"prompt": "a {subject}", "identity_id": "ID of /v1/identities"}, _GROUP]
        },
    )

    prompt: Prompt = Field(description="may hold {subject}; up to max_prompt_tokens with its style")
    identity_id: str | None = None
    mix: list[Part] | None = Field(None, min_length=2, max_length=8)
    mix_mode: Literal["interpolate", "stack"] = Field("interpolate", description="with mix")
    group: list[Member] | None = Field(
        None,
        min_length=2,
        max_length=MOST_PEOPLE,
        description="people in one picture, left to right",
    )
    photos: list[str] | None = Field(
        None, min_length=1, description="base64 of image files, up to max_photos"
    )
    face: int | Literal["single", "largest"] = Field("single", description="with photos")
    image: str | None = Field(
        None, description="base64 of a picture that the pictures begin with, in their proportions"
    )
    mask_image: str | None = Field(
        None, description="with image, of its size, base64: white is made anew, black is kept"
    )
    strength: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        None, description="with image: share of the steps that are taken from it on; default 0.8"
    )
    control_image: str | None = Field(
        None, description="base64 of a picture that the ControlNet holds the pictures to"
    )
    control_keypoints: list[Point] | None = Field(
        None,
        min_length=5,
        max_length=5,
        description="in its place x and y of eyes, nose and corners of the mouth, in fractions",
    )
    controlnet_conditioning_scale: Finite = Field(1.0, description="with control_image or the like")
    control_guidance_start: Share = Field(0.0, description="likewise: fraction of the steps")
    control_guidance_end: Share = Field(1.0, description="likewise")
    control_streams: ControlStreams = Field("both", description="likewise")
    details: bool | None = Field(
        None, description="small faces are made again; by default where the service does that"
    )
    method: str | None = None
    style: str | None = None
    negative_prompt: Annotated[str, Clean] | None = Field(
        None, description="replaces the style's own"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="picture number i has seed + i")
    n: int = Field(1, ge=1, description="pictures, up to max_images of /v1/settings")
    height: int | None = Field(None, description="pixels, min_side to max_side of /v1/settings")
    width: int | None = Field(None, description="as height")
    steps: int | None = Field(None, ge=1, description="up to max_steps of /v1/settings")
    guidance_scale: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = Field(
        None, description="up to max_guidance of /v1/settings"
    )
    identity_scale: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = Field(
        None, description="up to max_identity_scale of /v1/settings, which has the default too"
    )
    format: Literal["png", "webp", "jpeg"] = "png"
    response: Literal["json", "image"] = "json"
    scores: bool = False
    stream: bool = Field(
        False, description="server-sent events: queued, step, preview, result or error"
    )
    previews: int = Field(
        0, ge=0, description="unfinished pictures of each, with stream; up to max_previews"
    )

    @property
    def is_held(self) -> bool:
        """Whether a ControlNet acts."""
        return self.control_image is not None or self.control_keypoints is not None

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> GenerateBody:
        for name, default, needs, there in (
            ("mix_mode", "interpolate", "mix", self.mix is not None),
            ("face", "single", "photos", self.photos is not None),
            ("previews", 0, "stream", self.stream),
            ("mask_image", None, "image", self.image is not None),
            ("strength", None, "image", self.image is not None),
            *((name, default, "control_image", self.is_held) for name, default in _CONTROL.items()),
        ):
            value = getattr(self, name)
            if value != default and not there and name == "mask_image":
                raise ValueError("mask_image is given without image, allowed: with image")
            if value != default and not there:
                raise ValueError(f"{name} is {value} without {needs}, allowed: with {needs}")
        if self.control_image is not None and self.control_keypoints is not None:
            raise ValueError(
                "control_image and control_keypoints are both given, allowed: one of them"
            )
        if self.response == "image" and (self.n > 1 or self.stream or self.scores):
            raise ValueError("response is image, allowed: one picture without stream and scores")
        return self


class TokensBody(BaseModel):
    """A prompt that is being typed."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(max_length=10_000)
    style: str | None = None
