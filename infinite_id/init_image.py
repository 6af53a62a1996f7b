"""The picture that a request begins with: image to image, and with a mask inpainting. Light: no
torch (docs/image_to_image.md).

Names and meaning are diffusers': `image` is noised to where `strength` says and denoised from
there; where `mask_image` is black, the picture is put back after each step.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["STRENGTH", "InitImage", "check_strength", "first_step", "fitted", "init_image"]

STRENGTH = 0.8
"""Where none is given."""
_STRETCH = 0.02
_WHITE = 128


@dataclass(frozen=True, slots=True, eq=False)
class InitImage:
    """A picture of the request's own size, made by `init_image`.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        strength: share of the denoising steps that are taken, in (0, 1].
        mask_image: bool (H, W), True where the picture is made anew; None: everywhere.
    """

    image: NDArray[np.uint8] = field(repr=False)
    strength: float = STRENGTH
    mask_image: NDArray[np.bool_] | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """32 hex digits of all that it is."""
        what = hashlib.blake2b(repr((self.image.shape, self.strength)).encode(), digest_size=16)
        what.update(np.ascontiguousarray(self.image).tobytes())
        if self.mask_image is not None:
            what.update(np.packbits(self.mask_image).tobytes())
        return what.hexdigest()

    def check(self, height: int, width: int, steps: int) -> None:
        """Raises a ValueError unless it fits a picture of that size and leaves one of `steps`."""
        check_strength(self.strength)
        if self.image.shape != (height, width, 3):
            raise ValueError(
                f"image is an array {self.image.shape}, allowed: ({height}, {width}, 3)"
            )
        if self.mask_image is not None and self.mask_image.shape != (height, width):
            raise ValueError(
                f"mask_image is an array {self.mask_image.shape}, allowed: ({height}, {width})"
            )
        if first_step(self, steps) >= steps:
            raise ValueError(
                f"strength is {self.strength:g}, which leaves none of {steps} steps, allowed: "
                f"{_up(1 / steps)} to 1, or more steps"
            )


def _up(value: float) -> str:
    """Rounded up, so that the number that is told is one that works."""
    return f"{math.ceil(value * 1000) / 1000:g}"


def check_strength(strength: float) -> None:
    """Raises a ValueError unless it lies in (0, 1]."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength:g}, allowed: more than 0, at most 1")


def first_step(picture: InitImage | None, steps: int) -> int:
    """How many of `steps` are left out at the beginning: 0 without a picture."""
    # The product as diffusers takes it, rounding and all.
    return 0 if picture is None else max(steps - int(steps * picture.strength), 0)


def init_image(
    image: NDArray[np.uint8],
    mask_image: NDArray[np.uint8] | None,
    strength: float,
    height: int,
    width: int,
) -> InitImage:
    """The picture in the request's size, scaled as diffusers scales it.

    Args:
        image: uint8 (h, w, 3) RGB of any size.
        mask_image: uint8 (h, w) of the same size; 128 and more, white, is made anew.
        strength: in (0, 1].
        height, width: of the request in pixels.

    Raises:
        ValueError: the picture would be stretched by more than 2 %, the mask has another size or
            is black, or the strength is out of range.
    """
    check_strength(strength)
    shown = fitted("image", image, height, width)
    mask: NDArray[np.bool_] | None = None
    if mask_image is not None:
        if mask_image.shape != image.shape[:2]:
            raise ValueError(
                f"mask_image is {mask_image.shape[1]} x {mask_image.shape[0]} px and image "
                f"{image.shape[1]} x {image.shape[0]} px, allowed: two of one size"
            )
        mask = _scaled(mask_image, height, width) >= _WHITE
        if not mask.any():
            raise ValueError(
                "mask_image is black everywhere, allowed: white where the picture is made anew"
            )
    return InitImage(shown, float(strength), mask)


def fitted(what: str, picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 (height, width, 3) of a picture of any size.

    Args:
        what: names it in the message.
        picture: uint8 (h, w, 3).
        height, width: in pixels.

    Raises:
        ValueError: it would be stretched by more than 2 %.
    """
    own_height, own_width = picture.shape[:2]
    stretch = (width / own_width) / (height / own_height)
    if not 1 - _STRETCH <= stretch <= 1 / (1 - _STRETCH):
        raise ValueError(
            f"{what} is {own_width} x {own_height} px for a picture of {width} x {height} px, "
            "which would stretch it, allowed: one of these proportions, or height and width of "
            "its own"
        )
    return _scaled(picture, height, width)


def _scaled(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if picture.shape[:2] == (height, width):
        return picture
    size = (width, height)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
