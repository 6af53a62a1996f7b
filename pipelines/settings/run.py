"""What runs over manifests have in common: who, what, where to, and with how many actors."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from pipelines.settings.model import ModelConfig
from pipelines.settings.records import Strict
from pipelines.tables.choices import IMAGE_FORMATS, LAYOUTS

__all__ = ["Resources", "RunConfig"]


class Resources(Strict):
    """Actors of each stage, and what one takes. The defaults fit two cores.

    `generation_actors` and `threads` (of torch in one of them, on a CPU) are fitted to the run and
    the cluster where they are None: see `pipelines.plan.inputs.generation_pool`.
    """

    face_actors: int = Field(1, ge=1)
    embedding_actors: int = Field(1, ge=1)
    generation_actors: int | None = Field(None, ge=1)
    scoring_actors: int = Field(1, ge=1)
    face_cpus: float = Field(0.5, gt=0)
    embedding_cpus: float = Field(0.5, gt=0)
    embedding_gpus: float = Field(0.0, ge=0)
    generation_cpus: float = Field(1.0, gt=0)
    generation_gpus: float | None = Field(None, ge=0)  # None: 1 for sdxl, 0 for pocket
    scoring_cpus: float = Field(1.0, gt=0)
    scoring_gpus: float = Field(0.0, ge=0)
    threads: int | None = Field(None, ge=1)
    # What the cluster can grow to; None: nobody knows, and the run waits.
    cluster_cpus: float | None = Field(None, gt=0)
    cluster_gpus: float | None = Field(None, ge=0)
    wait_seconds: float = Field(900.0, ge=0)  # for a cluster to grow


class RunConfig(ModelConfig):
    """What runs over manifests have in common, besides the model.

    None means the default: the packaged manifest, all rows.

    Attributes:
        identities: manifest, or folder of photos; by default the demo photos.
        layout: who is in a photo of a folder, of `pipelines.tables.choices.LAYOUTS`.
        prompts, styles, mixes: manifests; by default no mixes.
        prompt_ids, style_names: the rows to take of prompts and styles.
        batch_size: pictures of a generation batch, which is also the unit of commits, 1 or more.
        image_format: of the pictures in `images`: png, webp or jpeg.
        largest_face: of several faces in a photo take the largest instead of refusing it.
        check_people: refuse photos that do not agree with the person's others (the `agreement` of
            `embeddings`) instead of warning of them.
        min_face: shorter side of a face's box in pixels of the photo, above 0; smaller ones are
            passed over.
        max_photo_pixels: of a photo, 1 to 178,956,970; larger ones are refused undecoded.
        held_out_photos: last ones of each person that are never conditioned on and that the judge
            compares with, 0 or more; who has too few keeps one to condition on.
        output: run folder, any fsspec address.
        address: of a Ray cluster; by default RAY_ADDRESS, else a local one.
        resume: go on with the run that is in the output folder.
        resources: actors of each stage and what one takes.
    """

    decides: ClassVar[frozenset[str]] = frozenset(
        {
            "preset", "height", "width", "batch_size", "num_inference_steps", "guidance_scale",
            "image_format", "largest_face", "min_face", "held_out_photos", "check_people",
            "scorer",
        }
    )  # fmt: skip
    """Settings that decide the rows: not addresses, actors or the tracking server. What the model
    is made of is known by content (`pipelines.plan.weights.RunWeights`)."""

    identities: str | None = None
    layout: str = "person"
    prompts: str | None = None
    styles: str | None = None
    mixes: str | None = None
    prompt_ids: list[str] | None = None
    style_names: list[str] | None = None
    batch_size: int = Field(8, ge=1)
    image_format: str = "png"
    largest_face: bool = False
    check_people: bool = False
    min_face: float = Field(20.0, gt=0)
    max_photo_pixels: int = Field(50_000_000, ge=1, le=178_956_970)  # Pillow refuses more
    held_out_photos: int = Field(0, ge=0)  # of each person, never conditioned on: the judge's
    output: str = "runs/run"
    address: str | None = None
    resume: bool = False
    # On a disk it always is: a batch's pixels until it is committed, docs/reliability.md.
    resources: Resources = Resources()

    @property
    def method_names(self) -> list[str]:
        """The methods that the run generates with."""
        raise NotImplementedError

    @field_validator("layout")
    @classmethod
    def _layout(cls, value: str) -> str:
        if value not in LAYOUTS:
            raise ValueError(f"allowed: {', '.join(LAYOUTS)}")
        return value

    @field_validator("image_format")
    @classmethod
    def _format(cls, value: str) -> str:
        if value not in IMAGE_FORMATS:
            raise ValueError(f"allowed: {', '.join(IMAGE_FORMATS)}")
        return value
