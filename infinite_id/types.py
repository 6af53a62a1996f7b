"""The records that travel between stages. numpy only: importing this loads no torch.

Notation: H, W picture height and width in pixels; P photos of one person; T tokens; C channels.
Pictures are uint8, RGB, (H, W, 3), range [0, 255].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from infinite_id.regions import Box, Region

if TYPE_CHECKING:
    from infinite_id.control_image import ControlImage
    from infinite_id.init_image import InitImage

__all__ = [
    "AI_GENERATED",
    "CancelledError",
    "FaceRecord",
    "GeneratedImage",
    "GenerationRequest",
    "Generator",
    "Identity",
    "IdentityEmbedding",
    "IdentityGroup",
    "IdentityMix",
    "PreviewHook",
    "RefusedRequestsError",
]

_IDENTITY_FORMAT = "infinite-id-identity-1"

AI_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC digital source type of a picture made by a trained model."""


@dataclass(frozen=True, slots=True)
class FaceRecord:
    """One face found in one photo.

    Attributes:
        identity_id: the person.
        image_id: the photo, unique within a manifest.
        bbox: float32 (4,), x0 y0 x1 y1 in pixels of the photo after EXIF rotation.
        landmarks: float32 (5, 2), x y: right eye, left eye (as seen in the picture: left to
            right), nose, mouth corners left to right.
        det_score: detection confidence in [0, 1].
        aligned: uint8 (112, 112, 3) RGB, warped to the ArcFace 5-point template.
    """

    identity_id: str
    image_id: str
    bbox: NDArray[np.float32]
    landmarks: NDArray[np.float32] = field(repr=False)
    det_score: float
    aligned: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, slots=True)
class IdentityEmbedding:
    """What the face and CLIP encoders say of one person (docs/method.md).

    Attributes:
        face: float32 (face_width,), unit L2 norm; over several photos the normalised mean of
            the photos' unit embeddings.
        clip: float16 (P * T, clip_width), last hidden states of the CLIP image encoder on the
            aligned face, photos stacked along the token axis.
        revision: names and revisions of both encoders, e.g. ``"sface-2021dec+pocket-clip-1"``.
    """

    face: NDArray[np.float32] = field(repr=False)
    clip: NDArray[np.float16] = field(repr=False)
    revision: str


@dataclass(frozen=True, slots=True)
class Identity:
    """One person as a generator sees them.

    Attributes:
        identity_id: the person.
        images: P aligned faces, each uint8 (112, 112, 3) RGB.
        embedding: of those faces.
        class_word: "man", "woman", "person" ...: what `{subject}` in a prompt becomes.
    """

    identity_id: str
    images: tuple[NDArray[np.uint8], ...] = field(repr=False)
    embedding: IdentityEmbedding
    class_word: str = "person"

    def save(self, path: str | Path) -> None:
        """Writes one file: embedding, aligned faces, and the encoders' revision.

        The file holds the person's face: treat it as a photo.

        Args:
            path: NAME.safetensors, by which it is known for no photo.

        Raises:
            ValueError: it cannot be written, or has another ending.
        """
        from safetensors.numpy import save

        if not isinstance(path, str | Path) or Path(path).suffix != ".safetensors":
            raise ValueError(f"path is {path!r}, allowed: NAME.safetensors")

        header = {
            "format": _IDENTITY_FORMAT,
            "identity_id": self.identity_id,
            "class_word": self.class_word,
            "encoders": self.embedding.revision,
        }
        faces = np.stack(self.images) if self.images else np.empty((0, 112, 112, 3), np.uint8)
        clip = np.ascontiguousarray(self.embedding.clip, dtype=np.float16)
        face = np.ascontiguousarray(self.embedding.face, dtype=np.float32)
        data = save({"face": face, "clip": clip, "images": faces}, metadata=header)
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            temporary.write_bytes(data)
            temporary.replace(target)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ValueError(f"identity cannot be written to {path}: {reason}") from error
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path, encoders: str | None = None) -> Self:
        """Someone whom `save` wrote.

        Args:
            path: of the file.
            encoders: revision of the encoders that has to have made the embedding; None takes any.

        Raises:
            ValueError: no such file, or one of other encoders; the message names both.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="np") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"identity {path} cannot be read: {error}") from error
        if header.get("format") != _IDENTITY_FORMAT or set(arrays) != {"face", "clip", "images"}:
            raise ValueError(f"{path} is no saved identity, allowed: a file of Identity.save")
        made_by = header["encoders"]
        if encoders is not None and made_by != encoders:
            raise ValueError(
                f"identity {path} was made by the encoders {made_by}, allowed here: {encoders}"
            )
        embedding = IdentityEmbedding(arrays["face"], arrays["clip"], made_by)
        return cls(header["identity_id"], tuple(arrays["images"]), embedding, header["class_word"])


@dataclass(frozen=True, slots=True)
class IdentityMix:
    """Several people as one identity (docs/method.md).

    Attributes:
        parts: (identity_id, weight) pairs, weights finite.
        mode: "interpolate": weighted sum of identity tokens, weights sum to 1;
            "stack": tokens concatenated along the token axis, weights unused (1.0).
    """

    parts: tuple[tuple[str, float], ...]
    mode: Literal["interpolate", "stack"] = "interpolate"


@dataclass(frozen=True, slots=True)
class IdentityGroup:
    """Several people in one picture, each in a region of their own (docs/groups.md).

    Attributes:
        people: identity ids, one or more, in the order of the regions.
        regions: one a person, see `infinite_id.regions`; None: found by the generator, which lets
            the text stream make the picture first and gives its faces out left to right.
    """

    people: tuple[str, ...]
    regions: tuple[Region, ...] | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One picture to make. Everything that determines it is here or in the identity.

    Attributes:
        sample_id: stable hash of all that determines the picture (`pipelines.tables.manifest`).
        identity_id: the key of a person, of a mix, or of a group.
        method: an entry of `infinite_id.methods.METHODS`.
        prompt: final text, subject word and style suffix filled in.
        negative_prompt: final text; empty for none.
        style: the style's name (for grouping and reports; its words are in the prompt).
        seed: of the initial noise, in [0, 2**63).
        height, width: pixels, divisible by the VAE factor.
        num_inference_steps: >= 1; None: as the generator's sampler says.
        guidance_scale: classifier-free guidance; <= 1 switches guidance off; None: as the
            generator's sampler says.
        mix: set where `identity_id` names a mix.
        identity_scale: strength of the identity; None: as the method says.
        group: set where `identity_id` names a group.
        init_image: that it begins with, of its own size; None: with noise.
        control_image: that a ControlNet holds it to, of its own size; None for none.
        details: False: its small faces stay, where the generator makes such again.
    """

    sample_id: str
    identity_id: str
    method: str
    prompt: str
    negative_prompt: str
    style: str
    seed: int
    height: int
    width: int
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    mix: IdentityMix | None = None
    identity_scale: float | None = None
    group: IdentityGroup | None = None
    init_image: InitImage | None = None
    control_image: ControlImage | None = None
    details: bool = True


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One picture made.

    Attributes:
        sample_id: the request's.
        image: uint8 (H, W, 3) RGB.
        seconds: wall seconds of the batch divided by its size.
        regions: of a group's people, as they were asked for or found; None: no group, or masks.
        details: small faces that were made again.
    """

    sample_id: str
    image: NDArray[np.uint8]
    seconds: float
    regions: tuple[Box, ...] | None = None
    details: int = 0


@dataclass(frozen=True, slots=True)
class PreviewHook:
    """Who wants to see unfinished pictures.

    Attributes:
        wanted: called as wanted(step, steps) after each denoising step; returns positions in
            `requests`.
        show: called as show(position, step, picture) for each of them; the picture is uint8
            (h, w, 3) RGB, not larger than the request's.
    """

    wanted: Callable[[int, int], Collection[int]]
    show: Callable[[int, int, NDArray[np.uint8]], None]


class CancelledError(RuntimeError):
    """Raised by a generator when its `should_stop` callback answered True between two steps."""


class RefusedRequestsError(ValueError):
    """Some requests of a call cannot be made; without them the others can.

    Attributes:
        faults: number of each such request in the call -> a sentence.
    """

    def __init__(self, faults: Mapping[int, str]) -> None:
        super().__init__(next(iter(faults.values())))
        self.faults = dict(faults)

    def __reduce__(self) -> tuple[type[RefusedRequestsError], tuple[dict[int, str]]]:
        return type(self), (self.faults,)


@runtime_checkable
class Generator(Protocol):
    """A personalisation method. One instance may be used by one thread at a time."""

    revision: str
    """Names the weights and the settings; part of `sample_id`."""

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        *,
        on_step: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        previews: PreviewHook | None = None,
    ) -> list[GeneratedImage]:
        """Makes one picture a request, order kept.

        Args:
            requests: any number, different identities and texts allowed in one call; height,
                width, steps, and guidance may differ too (an implementation groups them).
            identities: by identity_id, all people that the requests (or their mixes) name.
            on_step: called as on_step(step, steps) after each denoising step.
            should_stop: asked between steps; True raises CancelledError.
            previews: shows unfinished pictures; a method may show none.

        Raises:
            ValueError: a request's value is out of range, or an identity is missing.
        """
        ...
