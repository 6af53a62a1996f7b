"""What the service answers, typed. Fields that a newer service adds are ignored."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from infinite_id.types import AI_GENERATED

__all__ = [
    "Event",
    "Face",
    "Generation",
    "Identity",
    "Method",
    "PersonSeen",
    "Picture",
    "Preview",
    "Queued",
    "Sample",
    "ScoreInfo",
    "Settings",
    "Step",
    "Style",
]

# What may say who is in a picture: photos are personal, an id works like a password while it lives.
_WHO = ("identity_id", "mix", "group", "photos", "image", "mask_image", "control_image")


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Face(_Result):
    """The face found in a photo.

    Attributes:
        bbox: xyxy in pixels of the photo, turned as its EXIF tag says; may reach beyond its edges.
        score: of the detector, 0 to 1.
        crop_png: the aligned face, a PNG of 112 x 112 px.
    """

    bbox: tuple[float, float, float, float]
    score: float
    crop_png: Base64Bytes = Field(repr=False)


class Identity(_Result):
    """An embedded person; can be generated while the service keeps it.

    Attributes:
        identity_id: works like a password for this person: keep it out of logs.
        expires_in_seconds: counted from the answer.
        faces: one a photo.
        photos_kept: by the service, numbered from 0.
    """

    identity_id: str = Field(repr=False)
    expires_in_seconds: float
    faces: tuple[Face, ...]
    photos_kept: int = 0


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the picture."""


class PersonSeen(_Result):
    """What a picture shows of one person of its group.

    Attributes:
        number: of the person, in the order of the request.
        faces: of the picture.
        region: as given or found.
        face_in_region, matched_face: the face there, and the person's by identity; None: none.
        identity: cosine of the matched face to the person.
        group_margin: that, less the highest cosine of the face to another person of the group.
        identity_in_region: cosine of the face in the region to the person.
        mixed_up: the face in the region is another person's of the group.
    """

    number: int
    faces: int
    region: Box | None
    face_in_region: Box | None
    matched_face: Box | None
    identity: float | None
    group_margin: float | None
    identity_in_region: float | None
    mixed_up: bool | None


class Picture(_Result):
    """A picture as it was delivered.

    Attributes:
        sample_id: stable hash of all that determines the picture.
        seed: of its noise.
        method: that made it.
        seconds: of generation, shared with its batch mates.
        format: of `data`.
        data: the file, marked as AI-generated.
        scores: by metric, None where the picture cannot be scored; empty unless asked for.
        details: small faces that were made again; None: none are looked for.
        regions: of a group's people, as given or found; None: no group.
        people: of a group, scores of each; empty unless asked for.
    """

    # It becomes a file name: a server cannot choose the folder.
    sample_id: str = Field(pattern=r"^[0-9A-Za-z_-]{1,128}$")
    seed: int
    method: str
    seconds: float
    format: Literal["png", "webp", "jpeg"]
    data: Base64Bytes = Field(repr=False)
    scores: dict[str, float | None]
    details: int | None = None
    regions: tuple[Box, ...] | None = None
    people: tuple[PersonSeen, ...] = ()


class Generation(_Result):
    """The pictures of one request.

    Attributes:
        pictures: picture number i has the request's seed + i.
        untrained: the service's weights are: its pictures are noise.
        request: what was asked for, without who.
        server: address of the service.
        created: when the answer came, ISO 8601 in UTC.
    """

    pictures: tuple[Picture, ...] = Field(alias="images")
    untrained: bool
    request: dict[str, Any]
    server: str
    created: str

    @classmethod
    def of(cls, answer: dict[str, Any], body: dict[str, Any], server: str) -> Generation:
        """An answer of /v1/generate to a request with that body."""
        request = {key: value for key, value in body.items() if key not in (*_WHO, "stream")}
        if body.get("mix") is not None:
            # Those of a stack have none.
            request["mix_weights"] = [part.get("weight") for part in body["mix"]]
        if body.get("group") is not None:
            request["group_regions"] = [one.get("region") for one in body["group"]]
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return cls.model_validate(
            {**answer, "request": request, "server": server, "created": created}
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Writes each picture, byte for byte as delivered, and beside it what it was made from.

        Args:
            folder: created where it is missing.

        Returns:
            The pictures' paths, `SAMPLE_ID.FORMAT`; the text is in `SAMPLE_ID.json`: request,
            scores, SHA-256 of the file and its IPTC digital source type. It does not hold who is
            in the picture.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        return [self._save(picture, target) for picture in self.pictures]

    def _save(self, picture: Picture, folder: Path) -> Path:
        path = folder / f"{picture.sample_id}.{picture.format}"
        path.write_bytes(picture.data)
        about = {
            **picture.model_dump(exclude={"data"}),
            "file": path.name,
            "sha256": hashlib.sha256(picture.data).hexdigest(),
            "digital_source_type": AI_GENERATED,
            "untrained": self.untrained,
            "request": self.request,
            "server": self.server,
            "created": self.created,
        }
        path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
        return path


class Queued(_Result):
    """The request was accepted.

    Attributes:
        pictures: that it asks for.
    """

    pictures: int


class Step(_Result):
    """A denoising step is done.

    Attributes:
        step: from 1.
        steps: of the request.
    """

    step: int
    steps: int


class Preview(_Result):
    """An unfinished picture, small and without scores.

    Attributes:
        step: after which it was made.
        index: of the picture in the request.
        image: a JPEG file, marked as AI-generated.
    """

    step: int
    index: int = 0
    image: Base64Bytes = Field(repr=False)


Event = Queued | Step | Preview | Generation
"""What `Client.stream` yields; a `Generation` comes last."""


class Method(_Result):
    """A way to make pictures.

    Attributes:
        name: for `method` of a request.
        title: for people.
        revision: changes with its weights and settings.
    """

    name: str
    title: str
    revision: str


class Style(_Result):
    """A style of the sheet.

    Attributes:
        style: its name, for `style` of a request.
        suffix: what it adds to the prompt.
        negative_prompt: what it keeps out.
    """

    style: str
    suffix: str | None
    negative_prompt: str | None


class Sample(_Result):
    """A person who does not exist.

    Attributes:
        name: for `sample` of `Client.add_identity`.
        png: the photo.
    """

    name: str
    png: Base64Bytes = Field(repr=False)


class ScoreInfo(_Result):
    """What a score means: the fields of `eval.metric_info.MetricInfo` that a reader needs."""

    name: str
    title: str
    higher_is_better: bool | None
    unit: str
    note: str


class Settings(_Result):
    """Defaults and limits.

    Attributes:
        preset: model family.
        untrained: its weights are: pictures are noise.
        height, width: of a picture by default, pixels.
        max_side: most pixels of either.
        steps, max_steps: of denoising, by default and at most.
        guidance_scale, max_guidance: likewise.
        controlnet: whether control pictures are taken.
        details: whether small faces are made again.
        max_images: most pictures of one request.
        max_previews: most unfinished pictures of each; 0 where the service sends none.
        max_photos: most photos of one person.
        max_prompt_chars: of a prompt.
        identity_ttl_seconds: how long a person is kept.
        scores: in the order of `Picture.scores`.
    """

    preset: str
    untrained: bool
    height: int
    width: int
    max_side: int
    steps: int
    max_steps: int
    guidance_scale: float
    max_guidance: float
    controlnet: bool = False
    details: bool = False
    max_images: int
    max_previews: int = 0
    max_photos: int
    max_prompt_chars: int
    identity_ttl_seconds: float
    scores: tuple[ScoreInfo, ...]
