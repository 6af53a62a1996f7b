"""What the service says of itself: what can be asked for, and every limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from eval.metric_info import MetricInfo
from infinite_id.config import Preset
from infinite_id.methods import METHODS
from pipelines.serving.config import ServiceConfig

__all__ = [
    "MAX_SEED",
    "SIDE_STEP",
    "Method",
    "Sample",
    "Settings",
    "Style",
    "methods_of",
    "settings_of",
]

MAX_SEED = 2**63 - 1
SIDE_STEP = 8
"""Of height and width: the autoencoder's factor."""


class _Told(BaseModel):
    # What is told and is not described here would be an OpenAPI that leaves something out.
    model_config = ConfigDict(extra="forbid")


class Method(_Told):
    """A way to make pictures."""

    name: str
    title: str
    revision: str = Field(description="changes with its weights and settings")
    personal: bool = Field(description="whether its pictures show the person")


class Style(_Told):
    """A style of the sheet."""

    style: str
    suffix: str | None = Field(description="what it adds to the prompt")
    negative_prompt: str | None


class Sample(_Told):
    """A person who does not exist."""

    name: str = Field(description="for sample of /v1/identities")
    png: str = Field(description="base64")


class ScoreInfo(_Told):
    """What a score means."""

    name: str
    title: str
    higher_is_better: bool | None
    bounds: list[float | None]
    unit: str
    network: str
    revision: str
    note: str
    left_out: str


class Settings(_Told):
    """Defaults and limits of requests, and what the scores mean; sides in pixels."""

    preset: str
    profile: str = Field(description="steps and work left out for speed; full: none")
    untrained: bool = Field(description="nobody trained the weights: pictures are noise")
    height: int
    width: int
    min_side: int
    max_side: int
    side_step: int = Field(description="height and width are divisible by it")
    steps: int
    max_steps: int
    guidance_scale: float
    max_guidance: float
    identity_scale: float
    max_identity_scale: float
    controlnet: bool = Field(description="whether control_image and the like are taken")
    details: bool = Field(description="whether small faces are made again, unless details is false")
    max_images: int = Field(description="of one request")
    max_previews: int = Field(description="of one picture; 0: none are sent")
    max_photos: int = Field(description="of one person")
    min_photo_side: int
    max_photo_pixels: int
    min_face: float = Field(description="shorter side of a face's box")
    max_body_bytes: int
    max_prompt_chars: int
    max_prompt_tokens: int | None = Field(description="with begin, end and style; null: unknown")
    max_seed: int
    requests_per_minute: int | None = Field(description="of a key; null: any")
    identity_ttl_seconds: float
    scores: list[ScoreInfo] = Field(description="in the order of a picture's scores")


def methods_of(revisions: Mapping[str, str], names: Sequence[str]) -> list[dict[str, Any]]:
    """The fields of `Method`, of each method that is offered."""
    return [
        {
            "name": name,
            "title": METHODS[name].title,
            "revision": revisions[name],
            "personal": name != "text_only",
        }
        for name in names
    ]


def settings_of(
    config: ServiceConfig,
    preset: Preset,
    *,
    untrained: bool,
    max_prompt_tokens: int | None,
    scores: Mapping[str, MetricInfo],
) -> dict[str, Any]:
    """The fields of `Settings`."""
    return {
        "preset": config.preset,
        "profile": config.profile or "full",
        "untrained": untrained,
        "height": preset.height,
        "width": preset.width,
        "min_side": 4 * SIDE_STEP,
        "max_side": config.max_side or 2 * max(preset.height, preset.width),
        "side_step": SIDE_STEP,
        "steps": preset.sampler.num_inference_steps,
        "max_steps": config.max_steps,
        "guidance_scale": preset.sampler.guidance_scale,
        "max_guidance": config.max_guidance,
        "identity_scale": preset.fusion.identity_scale,
        "max_identity_scale": config.max_identity_scale,
        "controlnet": preset.controlnet is not None,
        "details": preset.details is not None,
        "max_images": config.max_images,
        "max_previews": config.max_previews,
        "max_photos": config.max_photos,
        "min_photo_side": config.min_photo_side,
        "max_photo_pixels": config.max_photo_pixels,
        "min_face": config.min_face,
        "max_body_bytes": config.max_body_bytes,
        "max_prompt_chars": config.max_prompt_chars,
        "max_prompt_tokens": max_prompt_tokens,
        "max_seed": MAX_SEED,
        "requests_per_minute": config.requests_per_minute,
        "identity_ttl_seconds": config.identity_ttl_seconds,
        "scores": [info.as_dict() for info in scores.values()],
    }
