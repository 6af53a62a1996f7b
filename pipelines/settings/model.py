"""Which weights a command loads, and how they are computed with."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from pydantic import Field, field_validator

from eval.places import StorageOptions
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
from infinite_id.details_config import DetailsConfig, details_of
from pipelines.settings.records import Strict

__all__ = ["ModelConfig"]

_SFACE_WIDTH, _ARCFACE_WIDTH = 128, 512


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
        controlnet: address of a ControlNet of SDXL's in diffusers' layout, for prompts that have a
            control picture (docs/control.md).
        controlnet_revision: of `controlnet` on the hub.
        details: true, or fields of `infinite_id.details_config.DetailsConfig`: small faces are made
            again (docs/details.md).
        weights: name of a method's weights -> address of the file or folder: ip_adapter,
            ip_adapter_face, infinite_id_text_trained, photomaker, dreambooth.
        faces: "embedded", an insightface pack's name, or address of a pack's folder.
        clip: address of the CLIP image tower.
        clip_revision: of `clip` on the hub.
        scorer: address of an OpenCLIP folder (open_clip_config.json and weights) that judges text
            and image in place of the preset's; never the tower that conditions.
        dtype: float32, bfloat16 or float16; None: the preset's on a GPU, float32 on a CPU, where
            a picture is then the same in any batch (to 2 of 255). bfloat16 is quicker on a CPU with
            AMX and slower on one without; both others take half of the memory.
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
        height, width: of a picture in pixels, 8 to 8192; the base says of what a multiple.
        num_inference_steps: of denoising, 1 or more.
        guidance_scale: of classifier-free guidance, 0 or more.
        guidance_steps: first and last fraction of the steps, in [0, 1], with guidance.
        reuse_steps: each so many-th step is computed whole, 1 or more; the ones between keep the
            features of the UNet's inner blocks.
        text_every: the text streams run in each so many-th step, 1 or more.
        storage_options: of the file systems by scheme, e.g.
            {"s3": {"endpoint_url": "http://127.0.0.1:9000"}}; no record or message shows a value.
    """

    preset: str = "pocket"
    base: str | None = None
    base_revision: str | None = None
    variant: str | None = None
    base_lora: str | None = None
    adapter: str | None = None
    controlnet: str | None = None
    controlnet_revision: str | None = None
    details: bool | dict[str, Any] = False
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
    height: int | None = Field(None, ge=8, le=8192)
    width: int | None = Field(None, ge=8, le=8192)
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0, allow_inf_nan=False)
    guidance_steps: tuple[float, float] | None = None
    reuse_steps: int | None = Field(None, ge=1)
    text_every: int | None = Field(None, ge=1)
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

    @field_validator("details")
    @classmethod
    def _details(cls, value: bool | dict[str, Any]) -> bool | dict[str, Any]:
        if isinstance(value, dict):
            known = [field.name for field in fields(DetailsConfig)]
            for name, one in value.items():
                if name not in known:
                    raise ValueError(f"unknown key {name!r}, allowed: {', '.join(known)}")
                if isinstance(one, bool) or not isinstance(one, int | float):
                    raise ValueError(f"{name} is {one!r}, allowed: a number")
            DetailsConfig(**value)
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
            "text_every": self.text_every,
        }
        sampler = replace(own.sampler, **_set(given))
        revision = own.base_revision if self.base is None else self.base_revision
        given = {
            "base": self.base,
            "adapter_path": self.adapter,
            "base_lora": self.base_lora,
            "controlnet": self.controlnet,
            "controlnet_revision": self.controlnet_revision,
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
            details=details_of(
                self.details if isinstance(self.details, bool) else DetailsConfig(**self.details)
            ),
        )


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _tupled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
