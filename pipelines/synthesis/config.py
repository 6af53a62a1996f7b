"""The configuration of a synthesis: what `infinite-id synthesize` makes and what it accepts."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from pipelines.settings import RunConfig, Strict

__all__ = ["Gates", "SynthesisConfig"]


class Gates(Strict):
    """What a picture has to pass; None (or False) switches a gate off.

    Attributes:
        nsfw: probability (open_nsfw) of an indecent picture that is too high.
        one_face: exactly one face.
        identity: least cosine (FaceNet) to the person asked for.
        text: least cosine of picture and prompt; its scale depends on the preset's scorer.
        other_identity: cosine (FaceNet) to any other known person that is too close.
        duplicate_bits: differing bits, of 64 of a perceptual hash, up to which a picture is a
            near-duplicate of an accepted one of the same person.
    """

    nsfw: float | None = Field(0.8, gt=0, le=1)
    one_face: bool = True
    identity: float | None = Field(0.5, ge=-1, le=1)
    text: float | None = Field(None, ge=-1, le=1)
    other_identity: float | None = Field(0.6, ge=-1, le=1)
    duplicate_bits: int | None = Field(4, ge=0, le=64)

    @property
    def metrics(self) -> list[str]:
        """The metrics that the gates read, in a fixed order."""
        wanted = {
            "nsfw": self.nsfw is not None,
            "face_count": self.one_face or self.other_identity is not None,
            "identity_facenet": self.identity is not None,
            "text_score": self.text is not None,
        }
        return [name for name, needed in wanted.items() if needed]


class SynthesisConfig(RunConfig):
    """What a synthesis does.

    A person gets `per_person` slots, spread evenly over the prompts in their styles. A slot's
    picture is drawn anew, with another seed, up to `redraws` times until one is accepted.
    `references` are people who must not appear: a folder or manifest of photos, or a folder with
    a `references` table of another synthesis; the manifest's own people always count.
    """

    decides: ClassVar[frozenset[str]] = RunConfig.decides | {
        "method", "per_person", "seed", "redraws", "gates", "watermark",
    }  # fmt: skip

    method: str = "infinite_id"
    per_person: int = Field(10, ge=1)
    seed: int = Field(0, ge=0, lt=2**62)
    redraws: int = Field(3, ge=0, le=1000)
    gates: Gates = Gates()
    references: str | None = None
    watermark: str | None = None
    least_accepted: float = Field(0.0, ge=0, le=1)  # share of the wanted; below it: exit code 1
    output: str = "runs/synthesis"

    @property
    def method_names(self) -> list[str]:
        """The one method that the run generates with."""
        return [self.method]

    @field_validator("method")
    @classmethod
    def _method(cls, value: str) -> str:
        from infinite_id.methods import METHODS

        if value not in METHODS:
            raise ValueError(f"unknown method {value!r}, allowed: {', '.join(sorted(METHODS))}")
        return value
