"""The picture that holds a request to a pose or a composition, for a ControlNet. Light: no torch
(docs/control.md).

Names and meaning are diffusers': `controlnet_conditioning_scale`, `control_guidance_start`,
`control_guidance_end`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from infinite_id.init_image import fitted

__all__ = ["ControlImage", "ControlStreams", "check_numbers", "control_image", "control_window"]

ControlStreams = Literal["both", "text"]


@dataclass(frozen=True, slots=True, eq=False)
class ControlImage:
    """A control picture of the request's own size, made by `control_image`.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        scale: of what the ControlNet adds, `controlnet_conditioning_scale`.
        start, end: fractions of the steps between which it acts, 0 <= start < end <= 1.
        streams: "both", or "text": the text streams alone, whose K_t and V_t then carry it.
    """

    image: NDArray[np.uint8] = field(repr=False)
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    streams: ControlStreams = "both"

    @property
    def digest(self) -> str:
        """32 hex digits of all that it is."""
        told = (self.image.shape, self.scale, self.start, self.end, self.streams)
        what = hashlib.blake2b(repr(told).encode(), digest_size=16)
        what.update(np.ascontiguousarray(self.image).tobytes())
        return what.hexdigest()

    def at(self, step: int, steps: int) -> float:
        """The scale in a step, from 0; 0 where it does not act."""
        # As diffusers' pipelines have it.
        return 0.0 if step / steps < self.start or (step + 1) / steps > self.end else self.scale

    def check(self, height: int, width: int) -> None:
        """Raises a ValueError unless it fits a picture of that size."""
        check_numbers(self.scale, self.start, self.end, self.streams)
        if self.image.shape != (height, width, 3):
            raise ValueError(
                f"control_image is an array {self.image.shape}, allowed: ({height}, {width}, 3)"
            )


def control_window(control: ControlImage | None) -> tuple[float, float]:
    """Start and end of what it adds; (0, 1) where nothing begins or ends, as without one."""
    return (0.0, 1.0) if control is None or not control.scale else (control.start, control.end)


def control_image(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    *,
    scale: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    streams: ControlStreams = "both",
) -> ControlImage:
    """The control picture in the request's size.

    Args:
        image: uint8 (h, w, 3) RGB of any size.
        height, width: of the request in pixels.
        scale, start, end, streams: see `ControlImage`.

    Raises:
        ValueError: the picture would be stretched by more than 2 %, or a value is out of range.
    """
    check_numbers(scale, start, end, streams)
    shown = fitted("control_image", image, height, width)
    return ControlImage(shown, float(scale), float(start), float(end), streams)


def check_numbers(scale: float, start: float, end: float, streams: str) -> None:
    """Raises a ValueError that names the first of a `ControlImage`'s values out of range."""
    if not math.isfinite(scale):
        raise ValueError(f"controlnet_conditioning_scale is {scale}, allowed: a finite number")
    if not 0 <= start < end <= 1:
        raise ValueError(
            f"control_guidance_start is {start:g} and control_guidance_end {end:g}, allowed: "
            "0 <= start < end <= 1"
        )
    if streams not in get_args(ControlStreams):
        raise ValueError(
            f"control_streams is {streams!r}, allowed: {', '.join(get_args(ControlStreams))}"
        )
