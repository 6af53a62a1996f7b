"""The benchmark's configuration, from YAML and the command line; unknown keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infinite_id.config import PRESETS
from pipelines.images import IMAGE_FORMATS
from pipelines.manifest import parse_seeds

__all__ = ["BenchmarkConfig", "Requirement", "Resources", "load_config"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Strict):
    """Actors of each stage, and what one takes. The defaults fit two cores."""

    face_actors: int = Field(1, ge=1)
    embedding_actors: int = Field(1, ge=1)
    generation_actors: int = Field(1, ge=1)
    scoring_actors: int = Field(1, ge=1)
    face_cpus: float = Field(0.5, gt=0)
    embedding_cpus: float = Field(0.5, gt=0)
    generation_cpus: float = Field(1.0, gt=0)
    generation_gpus: float | None = Field(None, ge=0)  # None: 1 for sdxl, 0 for pocket
    scoring_cpus: float = Field(1.0, gt=0)
    scoring_gpus: float = Field(0.0, ge=0)
    threads: int = Field(2, ge=1)  # of torch in a generation actor on a CPU


class Requirement(_Strict):
    """What a finished run has to reach, else the job's exit code is 1.

    `metric` is a column of the scores, its mean over the pictures of `method` (in `style` alone
    where one is named) is compared.
    """

    method: str
    metric: str
    style: str | None = None
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)


class BenchmarkConfig(_Strict):
    """What a run does. None for a manifest means the default one.

    `identities` is a manifest or a folder of photos; `base` and `adapter` replace the preset's
    weights: a folder, a hub id or any fsspec address; `storage_options` are the fsspec file
    system's, for s3:// e.g. {"endpoint_url": "http://127.0.0.1:9000"}.
    """

    preset: str = "pocket"
    base: str | None = None
    base_revision: str | None = None
    adapter: str | None = None
    requirements: list[Requirement] = Field(default_factory=list)
    identities: str | None = None
    prompts: str | None = None
    styles: str | None = None
    mixes: str | None = None
    methods: list[str] = Field(["infinite_id"], min_length=1)
    seeds: str = "0"
    limit: int | None = Field(None, ge=1)
    prompt_ids: list[str] | None = None
    style_names: list[str] | None = None
    metrics: list[str] | None = None
    height: int | None = Field(None, ge=8)
    width: int | None = Field(None, ge=8)
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0, allow_inf_nan=False)
    batch_size: int = Field(8, ge=1)
    image_format: str = "png"
    largest_face: bool = False
    min_face: float = Field(20.0, gt=0)
    max_photo_pixels: int = Field(50_000_000, ge=1, le=178_956_970)  # Pillow refuses more
    output: str = "runs/benchmark"
    tracking_uri: str | None = None
    experiment: str = "infinite-id"
    weights: dict[str, str] = Field(default_factory=dict)  # baseline -> its file or folder
    held_out_photos: int = Field(0, ge=0)  # of each person, never conditioned on: the judge's
    set_pictures: int = Field(1000, ge=0)  # of a method, for the metrics of whole sets; 0: none
    storage_options: dict[str, Any] = Field(default_factory=dict)
    address: str | None = None
    resume: bool = False
    resources: Resources = Resources()

    @field_validator("preset")
    @classmethod
    def _preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"allowed: {', '.join(sorted(PRESETS))}")
        return value

    @field_validator("methods")
    @classmethod
    def _methods(cls, value: list[str]) -> list[str]:
        from infinite_id.methods import METHODS

        for name in value:
            if name not in METHODS:
                raise ValueError(f"unknown method {name!r}, allowed: {', '.join(sorted(METHODS))}")
        if len(set(value)) != len(value):
            raise ValueError("a method stands twice, allowed: each once")
        return value

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return None
        from eval.metrics import METRICS

        for name in value:
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}, allowed: {', '.join(METRICS)}")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: str) -> str:
        parse_seeds(value)
        return value

    @field_validator("image_format")
    @classmethod
    def _format(cls, value: str) -> str:
        if value not in IMAGE_FORMATS:
            raise ValueError(f"allowed: {', '.join(IMAGE_FORMATS)}")
        return value


def load_config(path: str | None = None, **overrides: Any) -> BenchmarkConfig:
    """The configuration of a YAML file with overrides on top; None overrides nothing.

    Raises:
        ValueError: one sentence with the file, the key, the value received and what is allowed.
    """
    values: dict[str, Any] = {}
    where = "the command line"
    if path is not None:
        where = path
        try:
            loaded = yaml.safe_load(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise ValueError(f"config file {path} does not exist") from None
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"config file {path} cannot be read: {reason}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ValueError(f"config file {path} is a {type(loaded).__name__}, allowed: a mapping")
        values = loaded or {}
    values.update({key: value for key, value in overrides.items() if value is not None})
    try:
        return BenchmarkConfig(**values)
    except ValidationError as error:
        raise ValueError(f"{where}: {_sentence(error)}") from None
    except TypeError as error:
        raise ValueError(f"{where}: keys must be text ({error})") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        nested: dict[str, type[BaseModel]] = {
            "resources": Resources,
            "requirements": Requirement,
        }
        model = nested.get(str(first["loc"][0]), BenchmarkConfig)
        return f"unknown key {key!r}, allowed: {', '.join(model.model_fields)}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{key} is {first['input']!r}: {reason[0].lower()}{reason[1:]}"
