"""One call on a generator: its steps, the bar, the caller's callback, and what pictures become."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.details import with_details
from infinite_id.details_config import DetailsConfig, detailed_revision
from infinite_id.generator import LatentGenerator, StepHooks, StreamGenerator, boxes_of
from infinite_id.init_image import first_step
from infinite_id.interface.call import Call
from infinite_id.interface.picture import GeneratedPicture
from infinite_id.interface.values import as_number
from infinite_id.provenance import Provenance
from infinite_id.types import CancelledError, GeneratedImage, Generator

__all__ = ["OUTPUTS", "OutputType", "pictures_of", "within"]

OutputType = Literal["pil", "np", "pt", "latent"]
OUTPUTS = ("pil", "np", "pt", "latent")
Ends = tuple[float | None, float | None]


def within(made_by: Generator, method: str, guidance: Ends, identity: Ends) -> Generator:
    """The generator with the intervals of one call; None: its own.

    Raises:
        ValueError: an end out of range, or one for a method that has no such interval.
    """
    guidance, identity = _ends("guidance", guidance), _ends("identity", identity)
    missing: dict[str, Ends] = {}
    if not isinstance(made_by, StreamGenerator):
        missing["identity"] = identity
    if not isinstance(made_by, LatentGenerator):
        missing["guidance"] = guidance
    for kind, ends in missing.items():
        for end, value, whole in zip(("start", "end"), ends, (0.0, 1.0), strict=True):
            if value not in (None, whole):
                raise ValueError(
                    f"{kind}_{end} is {value}, allowed with method {method!r}: {whole:g}"
                )
    if not isinstance(made_by, LatentGenerator):
        return made_by
    sampler = made_by.sampler
    sampler = replace(sampler, guidance_steps=_interval("guidance", guidance, sampler))
    if not isinstance(made_by, StreamGenerator):
        return made_by.sampled(sampler)
    fusion = made_by.fusion
    fusion = replace(fusion, identity_steps=_interval("identity", identity, fusion))
    return made_by.configured(fusion, sampler)


def pictures_of(
    made_by: Generator,
    call: Call,
    kind: OutputType,
    device: torch.device,
    bar: Mapping[str, Any],
    callback: Callable[[int, Tensor, dict[str, Tensor]], Any] | None,
    is_enough: Callable[[], bool],
    details: DetailsConfig | None = None,
) -> tuple[Any, Sequence[NDArray[np.uint8]] | None]:
    """What `InfiniteIDOutput.images` has, and the same as uint8 (H, W, 3) each; None for latents.

    Args:
        made_by: the generator.
        call: its requests.
        kind: of output.
        device: of a tensor of pictures.
        bar: options of tqdm.
        callback: called as callback(step, timestep, {"latents": ...}) after each step.
        is_enough: asked after each step; once it is, no small face is made again.
        details: of small faces that are made again; None: they are not.

    Raises:
        ValueError: latents or a callback are asked for, and the method has no latents; or details,
            and it has none, or latents are asked for.
    """
    if details is not None and (kind == "latent" or not isinstance(made_by, LatentGenerator)):
        raise ValueError(
            f"details is set with output_type {kind!r} and method {call.requests[0].method!r}, "
            "allowed: pil, np or pt, and a method that takes a picture to begin with"
        )
    revision = made_by.revision
    if isinstance(made_by, LatentGenerator):
        latents = _latents_of(made_by, call, bar, callback, is_enough)
        if kind == "latent":
            return latents, None
        pixels: Sequence[NDArray[np.uint8]] = made_by.base.decode(latents)
        again = None
        if details is not None and not is_enough():
            again = _detailed(made_by, call, pixels, details, is_enough)
        if details is not None and again is not None:
            pixels, revision = again, detailed_revision(revision, details)
    elif kind == "latent" or callback is not None:
        raise ValueError(
            f"method is {call.requests[0].method!r}, which has no latents, allowed with it: "
            "output_type pil, np or pt, and no callback_on_step_end"
        )
    else:
        pixels = [one.image for one in made_by.generate(call.requests, call.known)]
    return _shown(pixels, call.provenance(revision), kind, device), pixels


def _detailed(
    made_by: LatentGenerator,
    call: Call,
    pixels: Sequence[NDArray[np.uint8]],
    details: DetailsConfig,
    is_enough: Callable[[], bool],
) -> list[NDArray[np.uint8]] | None:
    """The pictures with their small faces made again; None: the caller has ended it."""
    made = [
        GeneratedImage(request.sample_id, picture, 0.0, boxes_of(request))
        for request, picture in zip(call.requests, pixels, strict=True)
    ]
    try:
        again = with_details(
            made_by, call.requests, made, call.known, details, should_stop=is_enough
        )
    except CancelledError:
        return None
    return [one.image for one in again]


def _latents_of(
    made_by: LatentGenerator,
    call: Call,
    bar: Mapping[str, Any],
    callback: Callable[[int, Tensor, dict[str, Tensor]], Any] | None,
    is_enough: Callable[[], bool],
) -> Tensor:
    """Latents (N, C, h, w) of a call's N pictures.

    Args:
        made_by: the generator.
        call: its requests.
        bar: options of tqdm.
        callback: called as callback(step, timestep, {"latents": ...}) after each step.
        is_enough: asked after each step.
    """

    def on_latents(step: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
        given = {"latents": latents}
        returned = None if callback is None else callback(step, timestep, given)
        # Latents that were changed in place count too.
        return _told(given if returned is None else returned)

    groups = list(made_by.alike(call.requests))
    order = [number for numbers, _ in groups for number in numbers]
    steps = sum(
        number - first_step(group[0].init_image, number)
        for _, group in groups
        for number in [group[0].num_inference_steps or 0]
    )
    with tqdm(total=steps, **bar) as shown_bar:
        hooks = StepHooks(
            on_step=lambda step, steps: shown_bar.update(),
            on_latents=None if callback is None else on_latents,
            is_enough=is_enough,
        )
        parts = []
        for numbers, group in groups:
            ready = made_by.placed(group, hooks)
            call.place(numbers, ready)
            # Copies, because tensors of inference mode cannot be used with gradients.
            parts.append(made_by.latents(ready, call.known, hooks).clone())
    made = torch.cat(parts)[torch.tensor(order).argsort()]
    broken = [number for number, one in enumerate(made) if not bool(one.isfinite().all())]
    if broken:
        warnings.warn(
            f"latents of picture {', '.join(map(str, broken))} hold NaN or infinity in "
            f"{made_by.base.dtype}, so it is black or noise; float32 and bfloat16 reach further",
            RuntimeWarning,
            stacklevel=3,
        )
    return made


def _told(returned: Any) -> Tensor | None:
    """Latents of what a callback gives back.

    Raises:
        ValueError: it gives back something else.
    """
    if not isinstance(returned, Mapping):
        raise ValueError(
            f"callback_on_step_end returned a {type(returned).__name__}, allowed: None, or a "
            "dictionary with latents"
        )
    for name, value in returned.items():
        if name != "latents" or not isinstance(value, Tensor):
            raise ValueError(
                f"callback_on_step_end returned {name} as a {type(value).__name__}, allowed: "
                "latents as a tensor"
            )
    return returned.get("latents")


def _shown(
    pixels: Sequence[NDArray[np.uint8]],
    told: Sequence[Provenance],
    kind: OutputType,
    device: torch.device,
) -> Any:
    """Pictures as `InfiniteIDOutput.images` has them; `told`: how each was made."""
    if kind == "pil":
        return [GeneratedPicture.of(one, how) for one, how in zip(pixels, told, strict=True)]
    floats = np.stack(pixels).astype(np.float32) / 255
    if kind == "np":
        return floats
    return torch.from_numpy(floats).permute(0, 3, 1, 2).to(device)


def _ends(kind: str, given: Ends) -> Ends:
    return as_number(f"{kind}_start", given[0]), as_number(f"{kind}_end", given[1])


def _interval(
    kind: Literal["guidance", "identity"],
    given: Ends,
    settings: SamplerConfig | FusionConfig,
) -> tuple[float, float]:
    first, last = getattr(settings, f"{kind}_steps")
    first, last = (
        own if new is None else new for new, own in zip(given, (first, last), strict=True)
    )
    if not 0.0 <= first <= last <= 1.0:
        raise ValueError(
            f"{kind}_start is {first} and {kind}_end {last}, allowed: 0 <= start <= end <= 1"
        )
    return first, last
