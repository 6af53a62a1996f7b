"""Regions of a picture, one a person: what is allowed, and what each lets through. Light: no torch.

A region is a box (x0, y0, x1, y1) in fractions of the picture, or a mask, (H, W) of the picture's
own size. Its map says how much of the person's identity a pixel takes, from 0 to 1: a box fades in
over `EDGE` of the picture INSIDE its own sides, so that nothing of a person lies in a neighbour's
box, and does not fade where its side is the picture's; a mask is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["EDGE", "OVERLAP", "Box", "Region", "check_regions", "region_map", "regions_of_faces"]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the picture's width and height, in [0, 1]."""
Region = Box | NDArray[np.generic]
"""A box, or a mask (H, W): bool, uint8 in [0, 255], or float in [0, 1]."""

EDGE = 1 / 16
"""Of the picture's side: what a box takes to fade in, at most a quarter of its own side."""
OVERLAP = 0.25
"""Of the smaller of two regions: the most that the other may cover."""

_RASTER = 256


def check_regions(
    regions: Sequence[Region], people: int, size: tuple[int, int] | None = None
) -> None:
    """Raises a ValueError that names the first region that cannot be used.

    Args:
        regions: one a person.
        people: how many there are.
        size: (height, width) of the picture in pixels; None where it is not known yet, for boxes.
    """
    if len(regions) != people:
        raise ValueError(f"regions are {len(regions)}, allowed: {people}, one a person")
    for number, region in enumerate(regions):
        name = f"region of person {number}"
        if isinstance(region, np.ndarray):
            _check_mask(name, region, size)
        else:
            _check_box(name, region)
    for number, region in enumerate(regions):
        if size is not None and not region_map(region, *size).any():
            what = "a mask of zeros" if isinstance(region, np.ndarray) else region
            raise ValueError(
                f"region of person {number} is {what}, allowed: one that covers a pixel of the "
                f"{size[1]} x {size[0]} px picture"
            )
    masks = [region.shape for region in regions if isinstance(region, np.ndarray)]
    shape = size or (masks[0] if masks else (_RASTER, _RASTER))
    maps = [region_map(region, *shape, edge=0.0) for region in regions]
    for first, second in combinations(range(people), 2):
        one, other = maps[first], maps[second]
        smaller = min(float(one.sum()), float(other.sum()))
        shared = float(np.minimum(one, other).sum()) / smaller if smaller else 0.0
        if shared > OVERLAP + 1e-6:
            raise ValueError(
                f"regions of person {first} and person {second} share {shared:.0%} of the smaller "
                f"one, allowed: at most {OVERLAP:.0%}"
            )


def _check_box(name: str, box: Box) -> None:
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError):
        x0 = y0 = x1 = y1 = math.nan
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"{name} is {box!r}, allowed: x0, y0, x1, y1 in fractions of the picture, with "
            "0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, or a mask of the picture's size"
        )


def _check_mask(name: str, mask: NDArray[np.generic], size: tuple[int, int] | None) -> None:
    if mask.ndim != 2 or (size is not None and mask.shape != size):
        wanted = "(H, W)" if size is None else f"({size[0]}, {size[1]}), the picture's"
        raise ValueError(f"{name} is a mask of the shape {mask.shape}, allowed: {wanted}")
    if mask.dtype not in (np.bool_, np.uint8) and not np.issubdtype(mask.dtype, np.floating):
        raise ValueError(f"{name} is a mask of {mask.dtype}, allowed: bool, uint8, float")
    if np.issubdtype(mask.dtype, np.floating) and not ((mask >= 0) & (mask <= 1)).all():  # type: ignore[operator]
        raise ValueError(
            f"{name} is a mask with values of {mask.min()} to {mask.max()}, allowed: 0 to 1"
        )


def region_map(region: Region, height: int, width: int, *, edge: float = EDGE) -> NDArray:
    """float32 (height, width) in [0, 1]: how much each pixel takes of the region's person.

    Args:
        region: valid; a mask has to have that size.
        height, width: pixels.
        edge: of a box, see `EDGE`.
    """
    if isinstance(region, np.ndarray):
        return region.astype(np.float32) / (255 if region.dtype == np.uint8 else 1)
    x0, y0, x1, y1 = region
    return np.outer(_fade(y0, y1, height, edge), _fade(x0, x1, width, edge))


def _fade(first: float, last: float, pixels: int, edge: float) -> NDArray:
    """float32 (pixels,): covered share of each pixel, times the fade at its centre."""
    begin, end = first * pixels, last * pixels
    place = np.arange(pixels, dtype=np.float64)
    cover = np.clip(np.minimum(place + 1, end) - np.maximum(place, begin), 0, 1)
    length = min(edge * pixels, (end - begin) / 4)
    if length > 0:
        if first > 0:
            cover *= np.clip((place + 0.5 - begin) / length, 0, 1)
        if last < 1:
            cover *= np.clip((end - place - 0.5) / length, 0, 1)
    return cover.astype(np.float32)


def regions_of_faces(faces: Sequence[Sequence[float]], height: int, width: int) -> tuple[Box, ...]:
    """A box around each face, head and shoulders, cut half way to its neighbours.

    Args:
        faces: boxes x0 y0 x1 y1 in pixels.
        height, width: of the picture in pixels.
    """
    centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in faces]
    boxes = [
        [
            max(x0 - (x1 - x0) * 0.75, 0.0),
            max(y0 - (y1 - y0) * 0.75, 0.0),
            min(x1 + (x1 - x0) * 0.75, float(width)),
            min(y1 + (y1 - y0) * 1.25, float(height)),
        ]
        for x0, y0, x1, y1 in faces
    ]
    for one, other in combinations(range(len(faces)), 2):
        apart = [abs(centres[one][axis] - centres[other][axis]) for axis in (0, 1)]
        axis = 0 if apart[0] >= apart[1] else 1
        near, far = sorted((one, other), key=lambda number: centres[number][axis])
        middle = (centres[one][axis] + centres[other][axis]) / 2
        # Regions that do not meet stay as they are.
        boxes[near][axis + 2] = min(boxes[near][axis + 2], middle)
        boxes[far][axis] = max(boxes[far][axis], middle)
    return tuple((x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes)
