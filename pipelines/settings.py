"""Configurations of runs, from YAML and the command line; unknown keys are refused.

`ModelConfig` is what every command has that loads the model: which weights, and how they are
computed with. `RunConfig` is what every run over manifests has besides: who, what, where to.
`BenchmarkConfig` and `pipelines.synthesis.config.SynthesisConfig` add what their job does with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from infinite_id.config import (
    PRESETS,
    PROFILES,
    AttentionKind,
    DType,
    FusionConfig,
    Preset,
    SamplerConfig,
    SchedulerKind,
    preset,
    profiled,
)
from pipelines.tables.manifest import parse_seeds
from pipelines.tables.photo_folder import LAYOUTS
from pipelines.tables.pictures import IMAGE_FORMATS
from pipelines.tables.storage import StorageOptions, shown

if TYPE_CHECKING:
    from eval.judges.given import GivenJudges

__all__ = [
    "BenchmarkConfig",
    "ModelConfig",
    "Requirement",
    "Resources",
    "RunConfig",
    "Strict",
    "load_config",
    "load_settings",
]


_SFACE_WIDTH, _ARCFACE_WIDTH = 128, 512
VLM_KEY = "INFINITE_ID_VLM_KEY"


class Strict(BaseModel):
    """A frozen record of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def record(self) -> dict[str, Any]:
        """The settings for a record that others may read: passwords in addresses are masked, of
        storage options the names are there alone."""
        return _masked(self.model_dump(mode="json"))


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return shown(value) if isinstance(value, str) else value


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


class Requirement(Strict):
    """What a finished run has to reach, else the job's exit code is 1.

    `metric` is a column of the scores, its mean over the pictures of `method` (in `style` alone
    where one is named) is compared.
    """

    method: str
    metric: str
    style: str | None = None
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)


class ModelConfig(Strict):
    """The model that a command loads: benchmark, synthesize, dreambooth, train, serve, plan, check.

    None means the preset's own. An address is a path, a hub id (files: hub://OWNER/NAME@REVISION/
    FILE) or any fsspec address, which is copied to each machine once.

    Attributes:
        preset: model family, of `infinite_id.config.PRESETS`.
        base: address of an SDXL-architecture pipeline in diffusers' layout.
        base_revision: of `base` on the hub.
        variant: of the base's weight files, "fp16"; None: half precision where `dtype` is half and
            such files are there, else full.
        base_lora: address of a safetensors file, fused into the base: LCM, Lightning, Hyper-SD.
        adapter: address of Infinite-ID's or public adapter weights.
        weights: name of a method's weights -> address of the file or folder: ip_adapter,
            ip_adapter_face, infinite_id_text_trained, photomaker, dreambooth.
        faces: "embedded", an insightface pack's name, or address of a pack's folder.
        clip: address of the CLIP image tower.
        clip_revision: of `clip` on the hub.
        scorer: address of an OpenCLIP folder (open_clip_config.json and weights) that judges text
            and image in place of the preset's; never the tower that conditions.
        dtype: float32, bfloat16 or float16; None: the preset's on a GPU, float32 on a CPU (the
            others take half of its memory, and longer).
        profile: of `infinite_id.config.PROFILES`: what is left out for speed, and measured;
            the settings below count more.
        scheduler: of `infinite_id.config.SchedulerKind`.
        fusion: fields of `FusionConfig`; what a method sets itself counts more.
        compile: compiles the UNet; in training, the step.
        attention: kernel of the streams' self-attention: sdpa (torch's), flash or sage (packages
            flash-attn and sageattention, on a GPU in half precision). Training and baselines with
            attention of their own keep torch's.
        offload: text encoders and VAE stay on the CPU while they are not needed.
        decode_slice: most pictures that the VAE decodes at once, 1 or more.
        allow_untrained: methods without trained weights run on random ones and make noise.
        height, width: of a picture in pixels, 8 or more; the base says of what a multiple.
        num_inference_steps: of denoising, 1 or more.
        guidance_scale: of classifier-free guidance, 0 or more.
        guidance_steps: first and last fraction of the steps, in [0, 1], with guidance.
        reuse_steps: each so many-th step is computed whole, 1 or more; the ones between keep the
            features of the UNet's inner blocks.
        storage_options: of the file systems by scheme, e.g.
            {"s3": {"endpoint_url": "http://127.0.0.1:9000"}}; no record or message shows a value.
    """

    preset: str = "pocket"
    base: str | None = None
    base_revision: str | None = None
    variant: str | None = None
    base_lora: str | None = None
    adapter: str | None = None
    weights: dict[str, str] = Field(default_factory=dict)
    faces: str | None = None
    clip: str | None = None
    clip_revision: str | None = None
    scorer: str | None = None
    dtype: DType | None = None
    profile: str | None = None
    scheduler: SchedulerKind | None = None
    fusion: dict[str, Any] = Field(default_factory=dict)
    compile: bool = False
    attention: AttentionKind = "sdpa"
    offload: bool = False
    decode_slice: int = Field(8, ge=1)
    allow_untrained: bool = False
    height: int | None = Field(None, ge=8)
    width: int | None = Field(None, ge=8)
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0, allow_inf_nan=False)
    guidance_steps: tuple[float, float] | None = None
    reuse_steps: int | None = Field(None, ge=1)
    storage_options: StorageOptions = StorageOptions()

    @field_validator("preset")
    @classmethod
    def _preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"allowed: {', '.join(sorted(PRESETS))}")
        return value

    @field_validator("profile")
    @classmethod
    def _profile(cls, value: str | None) -> str | None:
        if value is not None and value not in PROFILES:
            raise ValueError(f"allowed: {', '.join(PROFILES)}")
        return value

    @field_validator("guidance_steps")
    @classmethod
    def _guidance_steps(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None:
            SamplerConfig(guidance_steps=value)
        return value

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: dict[str, str]) -> dict[str, str]:
        from infinite_id.methods import METHODS

        known = sorted({name for spec in METHODS.values() for name in spec.weights})
        for name in value:
            if name not in known:
                raise ValueError(f"unknown weights {name!r}, allowed: {', '.join(known)}")
        return value

    @field_validator("fusion")
    @classmethod
    def _fusion(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = [field.name for field in fields(FusionConfig)]
        for name in value:
            if name not in known:
                raise ValueError(f"unknown key {name!r}, allowed: {', '.join(known)}")
        FusionConfig(**_tupled(value))
        return value

    def family(self) -> Preset:
        """The preset with these settings."""
        own = profiled(preset(self.preset), self.profile or "full")
        encoders, adapter = own.encoders, own.adapter
        if self.faces is not None:
            width = _SFACE_WIDTH if self.faces == "embedded" else _ARCFACE_WIDTH
            encoders = replace(encoders, faces=self.faces, face_width=width)
            adapter = replace(adapter, face_width=width)
        if self.clip is not None:
            encoders = replace(encoders, clip=self.clip, clip_revision=self.clip_revision)
        given: dict[str, Any] = {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "scheduler": self.scheduler,
            "guidance_steps": self.guidance_steps,
            "reuse_steps": self.reuse_steps,
        }
        sampler = replace(own.sampler, **_set(given))
        revision = own.base_revision if self.base is None else self.base_revision
        given = {
            "base": self.base,
            "adapter_path": self.adapter,
            "base_lora": self.base_lora,
            "dtype": self.dtype,
            "cpu_dtype": self.dtype,
            "height": self.height,
            "width": self.width,
        }
        return replace(
            own,
            **_set(given),
            base_revision=revision,
            variant=self.variant,
            encoders=encoders,
            adapter=adapter,
            sampler=sampler,
            weights=tuple(sorted(self.weights.items())),
            fusion=replace(own.fusion, **_tupled(self.fusion)),
            compile=self.compile,
            attention=self.attention,
            offload=self.offload,
            decode_slice=self.decode_slice,
            allow_untrained=self.allow_untrained,
        )


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _tupled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}


class RunConfig(ModelConfig):
    """What runs over manifests have in common, besides the model.

    None means the default: the packaged manifest, all rows.

    Attributes:
        identities: manifest, or folder of photos; by default the demo photos.
        layout: who is in a photo of a folder, of `pipelines.tables.photo_folder.LAYOUTS`.
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


class BenchmarkConfig(RunConfig):
    """What the main job does, with what `RunConfig` has.

    Attributes:
        requirements: on the means of scores; exit code 1 where the finished run misses one.
        max_rejects: of a finished run, 0 or more; exit code 1 where it has more. None: any number.
        methods: of `infinite_id.methods.METHODS`, one or more, each once.
        seeds: of every person, prompt and style: "0:4" (0 to 3), "7" or "0,3,9"; 0 or more.
        limit: most pictures per method, 1 or more; None: all.
        metrics: of `eval.metrics.METRICS` and `GROUPS`; None: the default ones.
        judges: name of a judge (`eval.judges.given.JUDGES`) -> its address: arcface, adaface,
            aesthetic, hpsv2, vlm.
        vlm_model: name of the model behind the judge vlm.
        vlm_key: of that endpoint; None: of the environment variable INFINITE_ID_VLM_KEY, else
            none. No record or message shows it.
        output: run folder, any fsspec address.
        tracking_uri: MLflow's; "none": no tracking; None: MLFLOW_TRACKING_URI, else a SQLite file
            beside a local output.
        experiment: MLflow's name of it; None: MLFLOW_EXPERIMENT_NAME, else infinite-id.
        set_pictures: most pictures per method for the metrics of whole sets, 0 or more; 0: none.
    """

    decides: ClassVar[frozenset[str]] = RunConfig.decides | {
        "methods", "seeds", "limit", "metrics", "judges", "vlm_model",
    }  # fmt: skip

    requirements: list[Requirement] = Field(default_factory=list)
    max_rejects: int | None = Field(None, ge=0)  # a finished run with more ends with exit code 1
    methods: list[str] = Field(["infinite_id"], min_length=1)
    seeds: str = "0"
    limit: int | None = Field(None, ge=1)
    metrics: list[str] | None = None
    judges: dict[str, str] = Field(default_factory=dict)
    vlm_model: str = ""
    vlm_key: SecretStr | None = None
    output: str = "runs/benchmark"
    tracking_uri: str | None = None
    experiment: str | None = None
    set_pictures: int = Field(1000, ge=0)  # of a method, for the metrics of whole sets; 0: none

    @property
    def method_names(self) -> list[str]:
        """The methods that the run generates with."""
        return self.methods

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
        from eval.metrics import GROUPS, METRICS, metric_names

        for name in value:
            if name not in METRICS and name not in GROUPS:
                allowed = ", ".join([*METRICS, *GROUPS])
                raise ValueError(f"unknown metric {name!r}, allowed: {allowed}")
        metric_names(value)
        return value

    @field_validator("judges")
    @classmethod
    def _judges(cls, value: dict[str, str]) -> dict[str, str]:
        from eval.judges.given import JUDGES

        for name in value:
            if name not in JUDGES:
                raise ValueError(f"unknown judge {name!r}, allowed: {', '.join(JUDGES)}")
        return value

    def _conditions(self) -> str:
        """The face network whose embeddings the methods see, "none" for none."""
        # Plus-face weights read no face embedding.
        if self.adapter is None and self.preset.startswith("sdxl_plus_face"):
            return "none"
        return self.family().encoders.faces

    def given_judges(self) -> GivenJudges:
        """The judges with what the endpoint needs; addresses are as they were written."""
        from eval.judges.given import GivenJudges

        key = self.vlm_key.get_secret_value() if self.vlm_key else ""
        return GivenJudges(
            addresses=self.judges,
            conditions=self._conditions(),
            vlm_model=self.vlm_model,
            vlm_key=key or os.environ.get(VLM_KEY, ""),
        )

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: str) -> str:
        parse_seeds(value)
        return value


Settings = TypeVar("Settings", bound=Strict)


def load_config(path: str | None = None, **overrides: Any) -> BenchmarkConfig:
    """The benchmark's configuration; see `load_settings`."""
    return load_settings(BenchmarkConfig, path, **overrides)


def load_settings(kind: type[Settings], path: str | None = None, /, **overrides: Any) -> Settings:
    """The configuration of a YAML file with overrides on top; None overrides nothing.

    Args:
        kind: of configuration.
        path: of the file; None for overrides alone.
        overrides: by key.

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
        return kind(**values)
    except ValidationError as error:
        raise ValueError(f"{where}: {_sentence(kind, error)}") from None
    except TypeError as error:
        raise ValueError(f"{where}: keys must be text ({error})") from None


def _sentence(kind: type[Strict], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        nested = kind.model_fields.get(str(first["loc"][0]))
        models = list(_models(nested.annotation)) if nested is not None else []
        allowed = ", ".join((models or [kind])[0].model_fields)
        return f"unknown key {key!r}, allowed: {allowed}"
    reason = first["msg"].removeprefix("Value error, ")
    # A rule over several keys names them itself, and its input is the whole record.
    if not key:
        return reason
    if key in ("storage_options", "vlm_key"):
        return reason  # its value may be a key or a password
    return f"{key} is {shown(repr(first['input']))}: {reason[0].lower()}{reason[1:]}"


def _models(annotation: Any) -> Iterator[type[Strict]]:
    """The settings records in a field's type, e.g. of list[Requirement]."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
