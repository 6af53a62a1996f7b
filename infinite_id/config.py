"""Frozen configurations and the presets: `pocket` (a laptop's CPU) and `sdxl` (GPUs), the latter
also with public IP-Adapter face weights as identity stream.

numpy-free and torch-free: importing this costs nothing. A configuration is changed with
`dataclasses.replace`; ablations are entries of `infinite_id.methods.METHODS` made that way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal, get_args

from infinite_id.details_config import DetailsConfig

__all__ = [
    "PRESETS",
    "PROFILES",
    "AdapterConfig",
    "AttentionKind",
    "DType",
    "EncoderConfig",
    "FusionConfig",
    "FusionKind",
    "NormKind",
    "Preset",
    "Profile",
    "SamplerConfig",
    "SchedulerKind",
    "check_choice",
    "preset",
    "profiled",
]

FusionKind = Literal["mixed", "mutual", "none"]
NormKind = Literal["adain_mean", "adain", "none"]
SchedulerKind = Literal[
    "ddim", "ddim_trailing", "dpmsolver++", "euler", "euler_trailing", "lcm", "own", "unipc"
]
DType = Literal["float32", "bfloat16", "float16"]
AttentionKind = Literal["sdpa", "flash", "sage"]


def _check_fractions(name: str, fractions: tuple[float, float]) -> None:
    first, last = fractions
    if not 0.0 <= first <= last <= 1.0:
        raise ValueError(f"{name} is ({first}, {last}), allowed: 0 <= first <= last <= 1")


def check_choice(name: str, value: str, kind: object) -> None:
    """Raises a ValueError that names the allowed values unless `value` is one of them."""
    allowed = get_args(kind)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, allowed: {', '.join(allowed)}")


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """How the identity stream takes from the text stream (docs/method.md).

    Attributes:
        fusion: self-attention keys and values: "mixed" concatenates both streams', "mutual"
            replaces the identity stream's by the text stream's, "none" leaves them alone.
        self_norm: normalisation of K_id, V_id towards K_t, V_t in self-attention.
        cross_norm: the same for K'_id, V'_id towards K'_t, V'_t in cross-attention. The paper's
            figure draws AdaIN-mean in self-attention only, its text can be read as both. By
            default it is left out here: the token mean of V'_id, which it replaces by the text's,
            carries most of the identity (docs/method.md has the figures).
        text_cross_attention: False switches `Attn(Q, K'_t, V'_t)` of the identity stream off
            (identity-enhanced training).
        identity_scale: factor of `Attn(Q, K'_id, V'_id)`; 0 switches the identity off.
        layers: (first, last) fraction of the self-attention layers, in [0, 1], where fusion acts;
            layers are counted by depth: down, middle, up.
        steps: (first, last) fraction of the denoising steps, in [0, 1], where fusion acts.
        identity_steps: (first, last) fraction of the steps, in [0, 1], that see the identity. The
            ones before are the text stream's; the ones after are the plain model's, from the
            identity stream's own latents.
        unconditional: whether fusion acts on the identity stream's unconditional rows too, which
            then take from the text stream's unconditional ones; the paper does not say.
    """

    fusion: FusionKind = "mixed"
    self_norm: NormKind = "adain_mean"
    cross_norm: NormKind = "none"
    text_cross_attention: bool = True
    identity_scale: float = 1.0
    layers: tuple[float, float] = (0.0, 1.0)
    steps: tuple[float, float] = (0.0, 1.0)
    identity_steps: tuple[float, float] = (0.0, 1.0)
    unconditional: bool = True

    def __post_init__(self) -> None:
        check_choice("fusion", self.fusion, FusionKind)
        check_choice("self_norm", self.self_norm, NormKind)
        check_choice("cross_norm", self.cross_norm, NormKind)
        if not math.isfinite(self.identity_scale):
            raise ValueError(f"identity_scale is {self.identity_scale}, allowed: a finite number")
        for name in ("layers", "steps", "identity_steps"):
            _check_fractions(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """Denoising. The paper: DDIM, 30 steps, guidance scale 5.0.

    Few-step LoRAs on the base (`Preset.base_lora`) want guidance 0 or 1 and "lcm" (LCM),
    "euler_trailing" (Lightning) or "ddim_trailing" (Hyper-SD).

    Attributes:
        scheduler: "own" is the one that the base pipeline came with.
        num_inference_steps, guidance_scale: of requests that do not say.
        guidance_steps: (first, last) fraction of the steps, in [0, 1], with guidance; the others
            cost half as much.
        reuse_steps: each so many-th step is computed whole, the ones between keep the features of
            the UNet's inner blocks (`infinite_id.sampler.reuse`); 1: all steps are whole.
        text_every: the text streams run in each so many-th step of both streams; in the ones
            between, the identity streams read the keys and values of the last, and the text
            streams go on by their last prediction; 1: in all steps.
    """

    scheduler: SchedulerKind = "ddim"
    num_inference_steps: int = 30
    guidance_scale: float = 5.0
    guidance_steps: tuple[float, float] = (0.0, 1.0)
    reuse_steps: int = 1
    text_every: int = 1

    def __post_init__(self) -> None:
        check_choice("scheduler", self.scheduler, SchedulerKind)
        if self.num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps is {self.num_inference_steps}, allowed: 1 or more"
            )
        if not math.isfinite(self.guidance_scale) or self.guidance_scale < 0:
            raise ValueError(f"guidance_scale is {self.guidance_scale}, allowed: finite, >= 0")
        for name in ("reuse_steps", "text_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed: 1 or more")
        if self.reuse_steps > 1 and self.text_every > 1:
            # Features are kept between steps of equal rows, which would never follow each other.
            raise ValueError(
                f"text_every is {self.text_every} beside reuse_steps {self.reuse_steps}, "
                "allowed: one of the two above 1"
            )
        _check_fractions("guidance_steps", self.guidance_steps)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a preset's sampler leaves out for speed; None: the preset's own.

    Measured by `python -m benchmarks.run speed_quality`, docs/measurements/speed_quality.md.

    Attributes:
        scheduler, num_inference_steps, guidance_steps, reuse_steps: see `SamplerConfig`.
        identity_steps: see `FusionConfig`.
    """

    scheduler: SchedulerKind | None = None
    num_inference_steps: int | None = None
    guidance_steps: tuple[float, float] | None = None
    reuse_steps: int | None = None
    identity_steps: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The identity encoders of a preset.

    Attributes:
        faces: "embedded" (YuNet + SFace from the installed package) or an insightface pack name
            or folder, e.g. "antelopev2".
        face_width: of the face backbone's embedding: SFace 128, ArcFace 512.
        clip: "pocket" or a hub id or folder of a `CLIPVisionModelWithProjection`.
        clip_revision: pinned hub revision, None for folders.
        clip_tokens, clip_width: shape of the hidden states.
        clip_layer: -1 the last hidden states (Infinite-ID), -2 the penultimate ones (public
            IP-Adapter weights).
    """

    faces: str
    face_width: int
    clip: str
    clip_revision: str | None
    clip_tokens: int
    clip_width: int
    clip_layer: int = -1

    def __post_init__(self) -> None:
        if self.clip_layer not in (-1, -2):
            raise ValueError(f"clip_layer is {self.clip_layer}, allowed: -1, -2")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Shapes of the mappers (docs/method.md); the rest follows from the UNet.

    Attributes:
        face_width, clip_width: widths of the encoders' outputs.
        cross_attention_dim: width of the identity tokens, the UNet's: 2048 for SDXL.
        face_tokens: tokens made from the face embedding.
        hidden_width: hidden width of both mappers' MLPs.
    """

    face_width: int
    clip_width: int
    cross_attention_dim: int
    face_tokens: int = 4
    hidden_width: int = 1024


@dataclass(frozen=True, slots=True)
class Preset:
    """Everything that a job needs to know of a model family.

    Attributes:
        name: of the preset.
        base: "pocket", or a hub id, folder or `s3://` address of an SDXL-architecture pipeline.
        base_revision: pinned hub revision.
        dtype: "float32", "bfloat16" or "float16" where a GPU is used.
        cpu_dtype: the same where none is.
        variant: of the base's weight files, e.g. "fp16"; None: half precision where `dtype` is
            and such files are there, else full.
        height, width: default size in pixels.
        encoders, adapter, sampler: see their classes.
        fusion: of the two-stream methods; what an ablation or a baseline of METHODS sets itself
            counts more.
        adapter_path: Infinite-ID adapter weights, or a public IP-Adapter face file
            (`infinite_id.weights.public_adapters`); a file, or hub://OWNER/NAME@REVISION/FILE;
            None: none trained. An entry "infinite_id" of `weights` counts more.
        base_lora: safetensors file of a LoRA fused into the base, such as LCM, Lightning or
            Hyper-SD; None for none.
        weights: (baseline, file or folder) pairs: ("photomaker", file), ("dreambooth", folder).
        controlnet: hub id, folder or `s3://` address of a ControlNet of SDXL's, diffusers' layout;
            None for none.
        controlnet_revision: of `controlnet` on the hub.
        details: small faces are made again, see `infinite_id.details`; None: they are not.
        compile: compiles the UNet on a GPU at its first call of each batch shape.
        attention: kernel of the streams' self-attention: torch's "sdpa"; "flash" or "sage" of the
            packages flash-attn and sageattention, on a GPU in half precision. Cross-attention and
            baselines with attention of their own keep torch's.
        offload: keeps text encoders and VAE on the CPU while they are not needed.
        decode_slice: most pictures that the VAE decodes at once, 1 or more.
        allow_untrained: methods without trained weights take random ones and make noise, which
            tests and timings may want; refused otherwise. The pocket preset is never asked.
    """

    name: str
    base: str
    base_revision: str | None
    dtype: str
    height: int
    width: int
    encoders: EncoderConfig
    adapter: AdapterConfig
    adapter_path: str | None = None
    weights: tuple[tuple[str, str], ...] = ()
    base_lora: str | None = None
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    variant: str | None = None
    compile: bool = False
    attention: AttentionKind = "sdpa"
    offload: bool = False
    decode_slice: int = 8
    allow_untrained: bool = False
    cpu_dtype: str = "float32"
    controlnet: str | None = None
    controlnet_revision: str | None = None
    details: DetailsConfig | None = None

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DType)
        check_choice("cpu_dtype", self.cpu_dtype, DType)
        check_choice("attention", self.attention, AttentionKind)
        if self.decode_slice < 1:
            raise ValueError(f"decode_slice is {self.decode_slice}, allowed: 1 or more")


_SDXL = Preset(
    name="sdxl",
    base="stabilityai/stable-diffusion-xl-base-1.0",
    base_revision="462165984030d82259a11f4367a4eed129e94a7b",
    dtype="bfloat16",
    height=1024,
    width=1024,
    encoders=EncoderConfig(
        "antelopev2",
        512,
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
        clip_tokens=257,
        clip_width=1280,
    ),
    adapter=AdapterConfig(512, 1280, cross_attention_dim=2048),
)
# Public weights were trained on buffalo_l and on penultimate hidden states; the FaceID ones are
# for non-commercial research.
_PUBLIC = replace(_SDXL.encoders, faces="buffalo_l", clip_layer=-2)
_IP_ADAPTER = "hub://h94/IP-Adapter@018e402774aeeddd60609b4ecdb7e298259dc729"
_FACE_ID = "hub://h94/IP-Adapter-FaceID@43907e6f44d079bf1a9102d9a6e56aef7a219bae"

PRESETS: dict[str, Preset] = {
    "pocket": Preset(
        name="pocket",
        base="pocket",
        base_revision=None,
        dtype="float32",
        height=64,
        width=64,
        encoders=EncoderConfig("embedded", 128, "pocket", None, clip_tokens=65, clip_width=192),
        adapter=AdapterConfig(128, 192, cross_attention_dim=256, face_tokens=4, hidden_width=512),
        # The paper's 5.0 saturates weights this little trained: half of the styled faces are lost.
        sampler=SamplerConfig(guidance_scale=1.5),
    ),
    "sdxl": _SDXL,
    "sdxl_plus_face": replace(
        _SDXL,
        name="sdxl_plus_face",
        encoders=_PUBLIC,
        adapter_path=f"{_IP_ADAPTER}/sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",
    ),
    # Nothing of it is for non-commercial use alone: these weights read CLIP tokens and no face
    # embedding, so any detector does.
    "sdxl_plus_face_open": replace(
        _SDXL,
        name="sdxl_plus_face_open",
        encoders=replace(_SDXL.encoders, faces="embedded", face_width=128, clip_layer=-2),
        adapter=replace(_SDXL.adapter, face_width=128),
        adapter_path=f"{_IP_ADAPTER}/sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",
    ),
    "sdxl_faceid": replace(
        _SDXL,
        name="sdxl_faceid",
        encoders=_PUBLIC,
        adapter_path=f"{_FACE_ID}/ip-adapter-faceid_sdxl.bin",
    ),
    "sdxl_faceid_plusv2": replace(
        _SDXL,
        name="sdxl_faceid_plusv2",
        encoders=_PUBLIC,
        adapter_path=f"{_FACE_ID}/ip-adapter-faceid-plusv2_sdxl.bin",
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}, allowed: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


PROFILES: dict[str, Profile] = {
    "full": Profile(),
    "fast": Profile("dpmsolver++", num_inference_steps=12),
    "faster": Profile("dpmsolver++", num_inference_steps=10, reuse_steps=2),
}


def profiled(family: Preset, name: str) -> Preset:
    """The preset with a profile's settings in the place of its own.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in PROFILES:
        raise ValueError(f"profile is {name!r}, allowed: {', '.join(PROFILES)}")
    given = {
        field.name: value
        for field in fields(Profile)
        if (value := getattr(PROFILES[name], field.name)) is not None
    }
    steps = given.pop("identity_steps", family.fusion.identity_steps)
    return replace(
        family,
        sampler=replace(family.sampler, **given),
        fusion=replace(family.fusion, identity_steps=steps),
    )
