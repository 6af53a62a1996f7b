"""METHODS: every personalisation method by name. Light: importing this loads no torch.

An entry is a factory, imported when it is first used, and its configuration; an ablation is an
entry with another configuration. Adding a method is adding an entry.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from infinite_id.baselines.config import DreamBoothConfig, EditorConfig, PhotoMakerConfig
from infinite_id.config import FusionConfig, FusionKind, Preset, SamplerConfig
from infinite_id.timed_config import TimedConfig
from infinite_id.types import Generator

if TYPE_CHECKING:
    from infinite_id.base import BaseModel

__all__ = [
    "METHODS",
    "MethodSpec",
    "check_takes",
    "load_generator",
    "load_generators",
    "trained_weights",
]


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """How a method is made.

    Attributes:
        factory: "module:function", called as function(spec, preset, base) -> Generator; of a
            `whole` pipeline as function(spec, preset, device).
        title: one line for tables and pages.
        config: the method's own settings.
        weights: names in `Preset.weights` of the trained weights that it takes, the first that is
            given counts; empty: it takes none.
        needs_base: whether it runs on the base model; False spares loading it.
        whole: it is a pipeline of its own, with weights of its own and none of the preset's.
        takes_image: whether its pictures may begin with one, as small faces made again do.
        takes_control: whether a ControlNet may hold its pictures.
    """

    factory: str
    title: str
    config: Any = field(default_factory=FusionConfig)
    weights: tuple[str, ...] = ()
    needs_base: bool = True
    whole: bool = False
    # Not in the repr, which names revisions: what a method refuses changes no picture.
    takes_image: bool = field(default=True, repr=False)
    takes_control: bool = field(default=True, repr=False)

    @property
    def computes(self) -> bool:
        """Whether it runs a network."""
        return self.needs_base or self.whole

    def has_text_stream(self, fusion: FusionKind) -> bool:
        """Whether a text stream of its own runs beside the identity's, or alone.

        Args:
            fusion: of the preset, which counts where the method sets none itself.
        """
        own = getattr(self.config, "fusion", None)
        if self.factory == _STREAMS and own == FusionConfig().fusion:
            own = fusion
        return own != "none"


_STREAMS = "infinite_id.factories:infinite_id"
_DETAILED = "infinite_id.details:detailed"
_OWN = ("infinite_id",)

METHODS: dict[str, MethodSpec] = {
    "infinite_id": MethodSpec(_STREAMS, "Infinite-ID", FusionConfig(), _OWN),
    "infinite_id_no_adain": MethodSpec(
        _STREAMS, "Infinite-ID without AdaIN-mean", FusionConfig(self_norm="none"), _OWN
    ),
    "infinite_id_adain": MethodSpec(
        _STREAMS, "Infinite-ID with AdaIN", FusionConfig(self_norm="adain"), _OWN
    ),
    "infinite_id_cross_adain_mean": MethodSpec(
        _STREAMS,
        "Infinite-ID, AdaIN-mean in cross-attention too",
        FusionConfig(cross_norm="adain_mean"),
        _OWN,
    ),
    "infinite_id_no_mixed": MethodSpec(
        _STREAMS, "Infinite-ID without mixed attention", FusionConfig(fusion="none"), _OWN
    ),
    "infinite_id_mutual": MethodSpec(
        _STREAMS, "Infinite-ID with mutual attention", FusionConfig(fusion="mutual"), _OWN
    ),
    "infinite_id_text_trained": MethodSpec(
        _STREAMS,
        "Infinite-ID without identity-enhanced training",
        FusionConfig(),
        ("infinite_id_text_trained",),
    ),
    "ip_adapter": MethodSpec(
        "infinite_id.baselines.ip_adapter:ip_adapter",
        "IP-Adapter, image tokens",
        FusionConfig(fusion="none", self_norm="none"),
        ("ip_adapter",),
    ),
    "ip_adapter_face": MethodSpec(
        "infinite_id.baselines.ip_adapter:ip_adapter_face",
        "IP-Adapter-Face",
        FusionConfig(fusion="none", self_norm="none"),
        ("ip_adapter_face", "infinite_id_text_trained"),
    ),
    "photomaker": MethodSpec(
        "infinite_id.baselines.photomaker:photomaker",
        "PhotoMaker",
        PhotoMakerConfig(),
        ("photomaker",),
        takes_control=False,
    ),
    "dreambooth": MethodSpec(
        "infinite_id.baselines.dreambooth:dreambooth",
        "DreamBooth (LoRA)",
        DreamBoothConfig(),
        ("dreambooth",),
        takes_control=False,
    ),
    "dreambooth_no_prior": MethodSpec(
        "infinite_id.baselines.dreambooth:dreambooth",
        "DreamBooth without prior preservation",
        DreamBoothConfig(prior_weight=0.0),
        ("dreambooth",),
        takes_control=False,
    ),
    "flux2_klein": MethodSpec(
        "infinite_id.baselines.editors:editor",
        "FLUX.2 klein, reference pictures",
        EditorConfig(("Flux2KleinPipeline",)),
        ("flux2_klein",),
        needs_base=False,
        whole=True,
        takes_image=False,
        takes_control=False,
    ),
    "qwen_image_edit": MethodSpec(
        "infinite_id.baselines.editors:editor",
        "Qwen-Image-Edit, reference pictures",
        EditorConfig(
            ("QwenImageEditPlusPipeline",), guidance="true_cfg_scale", takes_negative=True
        ),
        ("qwen_image_edit",),
        needs_base=False,
        whole=True,
        takes_image=False,
        takes_control=False,
    ),
    "text_only": MethodSpec("infinite_id.factories:text_only", "Base model, text only"),
    "timed": MethodSpec(
        "infinite_id.timed:timed",
        "Stand-in that costs a stated time",
        TimedConfig(),
        needs_base=False,
        takes_image=False,
        takes_control=False,
    ),
}


def check_takes(
    method: str,
    *,
    image: bool = False,
    streams: str | None = None,
    details: bool = False,
    fusion: FusionKind = "mixed",
) -> None:
    """Whether a method takes what its pictures are to begin with and to be held to.

    Args:
        method: of METHODS.
        image: they begin with pictures.
        streams: "both" or "text", that a ControlNet holds; None: it holds none.
        details: small faces are made again.
        fusion: of the preset.

    Raises:
        ValueError: it does not.
    """
    spec = METHODS[method]
    if details and not spec.takes_image:
        raise ValueError(
            f"details is set and method {method!r} takes no picture to begin with, allowed with "
            "it: no details"
        )
    if image and not spec.takes_image:
        raise ValueError(f"image is given to method {method!r}, allowed with it: none")
    if streams is not None and not spec.takes_control:
        raise ValueError(
            f"control_image is given to method {method!r}, allowed with it: none; Infinite-ID, its "
            "ablations, the IP-Adapters and text_only take them"
        )
    if streams == "text" and not spec.has_text_stream(fusion):
        why = " with fusion none" if spec.has_text_stream("mixed") else ""
        raise ValueError(
            f"control_streams is 'text' and method {method!r} has no text stream{why}, allowed: "
            "both"
        )


_ADAPTERS = ("infinite_id", "infinite_id_text_trained", "ip_adapter", "ip_adapter_face")


def trained_weights(
    spec: MethodSpec, preset: Preset, is_public: Callable[[str], bool] | None = None
) -> str | None:
    """Where a method's trained weights are: of `Preset.weights`, else `Preset.adapter_path` where
    it fits the method, else the pocket's own; None: it takes none, or may be untrained.

    The preset's own adapter file is of identity-enhanced training. A public one was trained with
    text, so what the method without that training and the IP-Adapters take is the same file.

    Args:
        spec: of METHODS.
        preset: model family.
        is_public: whether the file at an address is a public one; by default it is looked into.

    Raises:
        ValueError: nobody trained any, and that is not allowed; says what to set.
    """
    found = _weights(spec, preset, is_public)
    free = not spec.whole and (preset.base == "pocket" or preset.allow_untrained)
    if found is not None or not spec.weights or free:
        return found
    if spec.whole:
        raise ValueError(
            f"method {spec.title!r} has no weights, allowed: weights with {spec.weights[0]}: a "
            "folder of diffusers' layout"
        )
    ways = [f"weights with {spec.weights[0]}: its file or folder"]
    if spec.weights == _OWN:
        ways.insert(0, "adapter: a trained file, or a preset that has one (sdxl_plus_face_open)")
    own = preset.adapter_path is not None and spec.weights[0] in _ADAPTERS
    reason = ", and the adapter is of Infinite-ID's own training" if own else ""
    raise ValueError(
        f"method {spec.title!r} has no trained weights on preset {preset.name}{reason}: pictures "
        f"would be noise; allowed: {'; or '.join(ways)}; or allow_untrained, for tests and timings"
    )


def _weights(
    spec: MethodSpec, preset: Preset, is_public: Callable[[str], bool] | None
) -> str | None:
    given = dict(preset.weights)
    for name in spec.weights:
        if name in given:
            return given[name]
    if preset.adapter_path is not None and set(spec.weights) & set(_ADAPTERS):
        if spec.weights == _OWN:
            return preset.adapter_path
        from infinite_id.weights.places import is_public_adapter

        if (is_public or is_public_adapter)(preset.adapter_path):
            return preset.adapter_path
    if preset.base == "pocket":
        from infinite_id.pocket import weights as pocket

        for name in spec.weights:
            if name in pocket.ADAPTERS:
                path = pocket.adapter_path(name)
                return None if path is None else str(path)
    return None


def load_generators(
    names: Sequence[str],
    preset: Preset,
    *,
    device: str = "cpu",
    dtype: Any = None,
    compile: bool | None = None,
    offload: bool | None = None,
    sampler: SamplerConfig | None = None,
    base: BaseModel | None = None,
) -> dict[str, Generator]:
    """Generators of several methods over one loaded base model.

    Args:
        names: entries of METHODS.
        preset: model family.
        device: torch device.
        dtype: torch dtype, by default the preset's on a GPU and float32 on a CPU.
        compile, offload, sampler: in place of the preset's.
        base: a loaded base model in place of the preset's; device, dtype, compile and offload are
            then its own.

    Raises:
        ValueError: an unknown name (the message lists the known ones), a method without trained
            weights (see `Preset.allow_untrained`), or weights that do not load or fit.
    """
    specs = {}
    for name in names:
        if name not in METHODS:
            raise ValueError(f"method is {name!r}, allowed: {', '.join(sorted(METHODS))}")
        specs[name] = METHODS[name]
    if sampler is not None:
        preset = replace(preset, sampler=sampler)
    for spec in specs.values():
        trained_weights(spec, preset)
    if base is None and any(spec.needs_base for spec in specs.values()):
        from infinite_id.base import load_base

        base = load_base(preset, device=device, dtype=dtype, compile=compile, offload=offload)
    if base is not None:
        device = str(base.device)
    made = {
        name: _factory(spec)(spec, preset, device if spec.whole else base)
        for name, spec in specs.items()
    }
    if preset.details is None:
        return made
    detailed = _named(_DETAILED)
    return {name: detailed(one, name, preset.details) for name, one in made.items()}


def load_generator(method: str, preset: Preset, **options: Any) -> Generator:
    """The generator of one method; options as of `load_generators`."""
    return load_generators([method], preset, **options)[method]


def _factory(spec: MethodSpec) -> Callable[[MethodSpec, Preset, Any], Generator]:
    return _named(spec.factory)


def _named(address: str) -> Callable[..., Any]:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)
