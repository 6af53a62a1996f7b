"""The nodes: load a model, make people of photos, mix them, put them together, sample.

Pictures are ComfyUI's: float32 (B, H, W, 3) in [0, 1]. People travel as a tuple, one for each
picture of a batch. Whatever is wrong is a ValueError of one sentence, which ComfyUI shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infinite_id import METHODS, PRESETS
from infinite_id.prompts import shipped_styles

from . import host

if TYPE_CHECKING:
    from infinite_id import InfiniteIDPipeline

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

_MODEL, _PEOPLE = "INFINITE_ID", "INFINITE_ID_PEOPLE"
_CATEGORY = "Infinite-ID"
_OWN = "(the preset's)"
_NO_STYLE = "(none)"
# The page counts in doubles.
_LARGEST_SEED = 2**53 - 1


def _fraction(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    limits = {"min": 0.0, "max": 1.0, "step": 0.01}
    return "FLOAT", {"default": default, **limits, "tooltip": tooltip}


class InfiniteIDLoad:
    """A base model with identity weights and face encoders."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Loads a base model, identity weights and face encoders."
    RETURN_TYPES = (_MODEL,)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "preset": (
                    list(PRESETS),
                    {
                        "default": "pocket",
                        "tooltip": "pocket: pictures of 64 px on any machine. The others are SDXL "
                        "and load several GB from the hub.",
                    },
                ),
            },
            "optional": {
                "checkpoint": (
                    [_OWN, *host.files(host.CHECKPOINTS)],
                    {"tooltip": "An SDXL checkpoint of models/checkpoints as base model."},
                ),
                "adapter": (
                    [_OWN, *host.files(host.ADAPTERS)],
                    {"tooltip": f"Identity weights of models/{host.ADAPTERS}."},
                ),
                "offload": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Text encoders and VAE wait on the CPU: less GPU memory.",
                    },
                ),
            },
        }

    def load(
        self, preset: str, checkpoint: str = _OWN, adapter: str = _OWN, offload: bool = False
    ) -> tuple[InfiniteIDPipeline]:
        # Here, and not above: ComfyUI's start shall not wait for diffusers.
        from infinite_id import InfiniteIDPipeline

        file = None if adapter == _OWN else host.file(host.ADAPTERS, adapter)
        device = host.device()
        if device != "cpu":
            host.make_room()
        if checkpoint == _OWN:
            made = InfiniteIDPipeline.from_pretrained(preset, adapter=file)
        else:
            family = PRESETS[preset]
            if family.base == "pocket":
                raise ValueError(f"preset is {preset!r}, allowed with a checkpoint: those of SDXL")
            made = InfiniteIDPipeline.from_pretrained(
                host.file(host.CHECKPOINTS, checkpoint),
                adapter=file or preset,
                encoders=family.encoders,
                dtype=torch.float32 if device == "cpu" else getattr(torch, family.dtype),
            )
        made.to(device)
        if offload:
            made.enable_model_cpu_offload(device)
        return (made,)


class InfiniteIDPerson:
    """One person of one or more photos."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Makes one person of photos; a batch of pictures is several photos of them."
    RETURN_TYPES = (_PEOPLE, "IMAGE")
    RETURN_NAMES = ("people", "faces")
    OUTPUT_TOOLTIPS = ("One person.", "The faces that were found, 112 px, one for each photo.")
    FUNCTION = "person"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        more = "Another photo of the same person, of any size."
        return {
            "required": {
                "model": (_MODEL,),
                "photos": ("IMAGE", {"tooltip": "One photo, or several of the same person."}),
                "class_word": (
                    "STRING",
                    {"default": "person", "tooltip": "What {subject} in a prompt becomes."},
                ),
                "face": (
                    ["single", "largest", "by number"],
                    {"tooltip": "Which face of a photo; single refuses photos with several."},
                ),
                "face_number": (
                    "INT",
                    {"default": 0, "min": 0, "max": 99, "tooltip": "By number: 0 is leftmost."},
                ),
            },
            "optional": {f"photos_{number}": ("IMAGE", {"tooltip": more}) for number in (2, 3, 4)},
        }

    def person(
        self,
        model: InfiniteIDPipeline,
        photos: Tensor,
        class_word: str,
        face: str,
        face_number: int,
        **more: Tensor,
    ) -> tuple[tuple[Any, ...], Tensor]:
        chosen: Any = face_number if face == "by number" else face
        given = [one for batch in (photos, *more.values()) for one in _pixels(batch)]
        made = model.identity(given, class_word=class_word.strip() or "person", face=chosen)
        return (made,), torch.from_numpy(np.stack(made.images).astype(np.float32) / 255)


def _pixels(images: Tensor) -> list[NDArray[np.uint8]]:
    """ComfyUI's pictures as uint8 (H, W, 3)."""
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"photos have the shape {tuple(images.shape)}, allowed: (B, H, W, 3), RGB")
    return list((images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


class InfiniteIDMix:
    """Somebody between two people, or both in one."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Makes one person of two."
    RETURN_TYPES = (_PEOPLE,)
    RETURN_NAMES = ("people",)
    FUNCTION = "mix"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (_MODEL,),
                "first": (_PEOPLE,),
                "second": (_PEOPLE,),
                "mode": (
                    ["interpolate", "stack"],
                    {"tooltip": "interpolate: between them. stack: the tokens of both."},
                ),
                "weight": _fraction(0.5, "Of the second person; the first has the rest."),
            }
        }

    def mix(
        self,
        model: InfiniteIDPipeline,
        first: tuple[Any, ...],
        second: tuple[Any, ...],
        mode: str,
        weight: float,
    ) -> tuple[tuple[Any, ...]]:
        for name, people in (("first", first), ("second", second)):
            if len(people) != 1:
                raise ValueError(f"{name} is {len(people)} people, allowed: one")
        pair = (*first, *second)
        made = model.stack(*pair) if mode == "stack" else model.mix(*pair, weight=weight)
        return ((made,),)


class InfiniteIDGroup:
    """Several people in one picture."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Puts people into one picture, each in a region of their own."
    RETURN_TYPES = (_PEOPLE,)
    RETURN_NAMES = ("people",)
    FUNCTION = "group"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        regions = (
            "left to right: strips of equal width. auto: the prompt's own faces are given out left "
            "to right. masks: one for each person, of the picture's size."
        )
        return {
            "required": {
                "model": (_MODEL,),
                "people": (_PEOPLE, {"tooltip": "Of People Together, in the order of regions."}),
                "regions": (["left to right", "auto", "masks"], {"tooltip": regions}),
            },
            "optional": {"masks": ("MASK",)},
        }

    def group(
        self,
        model: InfiniteIDPipeline,
        people: tuple[Any, ...],
        regions: str,
        masks: Tensor | None = None,
    ) -> tuple[tuple[Any, ...]]:
        if (regions == "masks") != (masks is not None):
            told = "missing" if masks is None else "linked"
            raise ValueError(
                f"regions is {regions!r} and masks are {told}, allowed: masks with regions 'masks'"
            )
        count = len(people)
        where: Any = "auto"
        if masks is not None:
            where = list(masks.float().cpu().numpy())
        elif regions == "left to right":
            where = [(n / count, 0.0, (n + 1) / count, 1.0) for n in range(count)]
        return ((model.group(*people, regions=where),),)


class InfiniteIDTogether:
    """People for the pictures of one batch."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Puts people together: each gets a picture of the same batch."
    RETURN_TYPES = (_PEOPLE,)
    RETURN_NAMES = ("people",)
    FUNCTION = "together"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"first": (_PEOPLE,), "second": (_PEOPLE,)},
            "optional": {"third": (_PEOPLE,), "fourth": (_PEOPLE,)},
        }

    def together(self, **people: tuple[Any, ...]) -> tuple[tuple[Any, ...]]:
        order = ("first", "second", "third", "fourth")
        return (tuple(one for name in order for one in people.get(name, ())),)


class InfiniteIDSample:
    """Pictures of people."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Makes pictures of people; those of one text share its stream."
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        own = "0: the preset's own."
        side = {"default": 0, "min": 0, "max": 4096, "step": 16, "tooltip": own}
        styles = [_NO_STYLE, *shipped_styles()]
        return {
            "required": {
                "model": (_MODEL,),
                # No dynamicPrompts: it would take the braces of {subject} away.
                "prompt": ("STRING", {"default": "a {subject} on the beach", "multiline": True}),
                "negative_prompt": (
                    "STRING",
                    {"default": "", "multiline": True, "tooltip": "Empty: the style's own."},
                ),
                "style": (styles, {"tooltip": "Its words follow the prompt."}),
                "method": (_methods(), {"default": "infinite_id"}),
                "seed": (
                    "INT",
                    {"default": 0, "min": 0, "max": _LARGEST_SEED, "control_after_generate": True},
                ),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": own}),
                "guidance_scale": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 100.0,
                        "step": 0.1,
                        "tooltip": f"{own} 1: without guidance.",
                    },
                ),
                "identity_scale": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 3.0,
                        "step": 0.05,
                        "tooltip": "Strength of the identity; 0 switches it off.",
                    },
                ),
                "identity_start": _fraction(0.0, "Fraction of the steps where the identity begins"),
                "identity_end": _fraction(1.0, "Fraction of the steps where the identity ends"),
                "guidance_start": _fraction(0.0, "Fraction of the steps where guidance begins"),
                "guidance_end": _fraction(1.0, "Fraction of the steps where guidance ends"),
                "width": ("INT", side),
                "height": ("INT", side),
                "batch_size": (
                    "INT",
                    {"default": 1, "min": 1, "max": 64, "tooltip": "Pictures of each person."},
                ),
            },
            "optional": {
                "people": (_PEOPLE, {"tooltip": "Each gets a picture. text_only needs nobody."}),
                "image": ("IMAGE", {"tooltip": "One picture that all begin with."}),
                "mask": ("MASK", {"tooltip": "Of the image's size: white is made anew."}),
                "strength": (
                    "FLOAT",
                    {
                        "default": 0.8,
                        "min": 0.01,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "With an image: share of the steps that are taken from it on.",
                    },
                ),
                "details": ("BOOLEAN", {"default": False, "tooltip": "Small faces made again."}),
            },
        }

    #: Arguments of the pipeline that are its own default where a widget shows 0.
    OWN_AT_ZERO: ClassVar = {
        "steps": "num_inference_steps",
        "guidance_scale": "guidance_scale",
        "width": "width",
        "height": "height",
    }

    def sample(
        self,
        model: InfiniteIDPipeline,
        prompt: str,
        negative_prompt: str,
        style: str,
        method: str,
        batch_size: int,
        people: tuple[Any, ...] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        strength: float = 0.8,
        **values: Any,
    ) -> tuple[Tensor]:
        given = {self.OWN_AT_ZERO.get(name, name): value for name, value in values.items()}
        for name in self.OWN_AT_ZERO.values():
            given[name] = given[name] or None
        steps = given["num_inference_steps"] or model.preset.sampler.num_inference_steps
        done = host.steps_shown(steps)
        made = model(
            prompt,
            None if people is None else list(people),
            negative_prompt=negative_prompt.strip() or None,
            style=None if style == _NO_STYLE else style,
            method=method,
            num_images_per_prompt=batch_size,
            output_type="np",
            callback_on_step_end=lambda pipe, step, timestep, latents: done(step + 1),
            **given,
            **_begun(image, mask, strength),
        )
        return (torch.from_numpy(made.images),)


def _begun(image: Tensor | None, mask: Tensor | None, strength: float) -> dict[str, Any]:
    """What the pictures begin with, as arguments of the pipeline.

    Raises:
        ValueError: several pictures, or a mask alone.
    """
    if image is None:
        if mask is not None:
            raise ValueError("mask is linked without image, allowed: with image")
        return {}
    given: dict[str, Any] = {"strength": strength}
    for name, argument, batch in (("image", "image", image), ("mask", "mask_image", mask)):
        if batch is None:
            continue
        if len(batch) != 1:
            raise ValueError(f"{name} is a batch of {len(batch)}, allowed: 1")
        given[argument] = batch[0].numpy()
    return given


def _methods() -> list[str]:
    """Those that make pictures of the weights that can be loaded here."""
    return [
        name
        for name, spec in METHODS.items()
        if spec.needs_base and "dreambooth" not in spec.weights
    ]


NODE_CLASS_MAPPINGS = {
    "InfiniteIDLoad": InfiniteIDLoad,
    "InfiniteIDPerson": InfiniteIDPerson,
    "InfiniteIDMix": InfiniteIDMix,
    "InfiniteIDTogether": InfiniteIDTogether,
    "InfiniteIDGroup": InfiniteIDGroup,
    "InfiniteIDSample": InfiniteIDSample,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "InfiniteIDLoad": "Load Infinite-ID",
    "InfiniteIDPerson": "Person of Photos (Infinite-ID)",
    "InfiniteIDMix": "Mix Two People (Infinite-ID)",
    "InfiniteIDTogether": "People Together (Infinite-ID)",
    "InfiniteIDGroup": "Group in One Picture (Infinite-ID)",
    "InfiniteIDSample": "Sample (Infinite-ID)",
}
