"""The control pictures of prompts: what a ControlNet holds their pictures to. Light: no torch.

A row has the address of a picture, or five keypoints in fractions of the picture, which are drawn
as InstantID draws them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from infinite_id.control_image import ControlStreams, check_numbers
from pipelines.tables.photo_column import name_of

__all__ = ["CONTROL_COLUMNS", "PromptControl", "check_controls", "keypoints_of", "prompt_control"]

_NUMBERS = {
    "controlnet_conditioning_scale": 1.0,
    "control_guidance_start": 0.0,
    "control_guidance_end": 1.0,
}
CONTROL_COLUMNS = ("control_image", "control_keypoints", *_NUMBERS, "control_streams")
"""Of prompts and of requests."""

_POINTS = "five points x,y in fractions of the picture, 0 to 1: eyes, nose, corners of the mouth"


@dataclass(frozen=True, slots=True)
class PromptControl:
    """What a prompt is held to.

    Attributes:
        image: address; None with `keypoints`.
        keypoints: ten numbers, x and y of five points in fractions of the picture.
        scale, start, end, streams: see `infinite_id.control_image.ControlImage`.
        digest: of what lies at the address, None where it could not be read, or with keypoints.
    """

    image: str | None
    keypoints: tuple[float, ...] | None
    scale: float
    start: float
    end: float
    streams: ControlStreams
    digest: str | None = None

    @property
    def key(self) -> str:
        """Names all of it by content."""
        what = self.digest or "unread" if self.keypoints is None else repr(self.keypoints)
        return f"{what}*{self.scale:g}@{self.start:g}-{self.end:g}:{self.streams}"

    @property
    def told(self) -> dict[str, Any]:
        """As `requests` have it: the address without passwords."""
        return {
            "control_image": self.image and name_of({"uri": self.image}),
            "control_keypoints": None if self.keypoints is None else list(self.keypoints),
            "controlnet_conditioning_scale": self.scale,
            "control_guidance_start": self.start,
            "control_guidance_end": self.end,
            "control_streams": self.streams,
        }


def keypoints_of(value: Any, place: str) -> list[float]:
    """Ten numbers of one cell: "x,y; x,y; ..." or a list of pairs, or of numbers.

    Raises:
        ValueError: it is something else; names `place`.
    """
    given = value
    if isinstance(value, str):
        value = [part for part in re.split(r"[;,\s]+", value.strip()) if part]
    try:
        numbers = np.asarray(value, dtype=np.float64).reshape(-1).tolist()
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 10:
        raise ValueError(f"{place}: value is {given!r}, allowed: {_POINTS}")
    return numbers


def prompt_control(
    row: Mapping[str, Any], digests: Mapping[str, str | None]
) -> PromptControl | None:
    """What a prompt's row is held to; None: nothing.

    Args:
        row: of the prompts manifest.
        digests: of what lies at addresses.
    """
    image, points = row["control_image"], row["control_keypoints"]
    if image is None and points is None:
        return None
    scale, start, end = (
        default if row[name] is None else row[name] for name, default in _NUMBERS.items()
    )
    return PromptControl(
        image,
        None if points is None else tuple(points),
        scale,
        start,
        end,
        row["control_streams"] or "both",
        None if image is None else digests[image],
    )


def check_controls(prompts: pa.Table, where: str) -> None:
    """Raises a ValueError that names the first row whose control columns cannot stand there."""
    for number, row in enumerate(prompts.select(list(CONTROL_COLUMNS)).to_pylist()):
        place = f"{where}, row {number}, column"
        image, points = row["control_image"], row["control_keypoints"]
        if image is not None and points is not None:
            raise ValueError(
                f"{place} 'control_keypoints': stands beside control_image, allowed: one of them"
            )
        if image is None and points is None:
            given = next((n for n in CONTROL_COLUMNS if row[n] is not None), None)
            if given is not None:
                raise ValueError(
                    f"{place} {given!r}: value is {row[given]!r} without control_image, allowed: "
                    "with control_image or control_keypoints"
                )
            continue
        inside = points is None or (len(points) == 10 and all(0 <= one <= 1 for one in points))
        if not inside:
            raise ValueError(
                f"{place} 'control_keypoints': value is {points!r}, allowed: {_POINTS}"
            )
        control = prompt_control(row, {image: None})
        if control is not None:
            try:
                check_numbers(control.scale, control.start, control.end, control.streams)
            except ValueError as error:
                raise ValueError(f"{where}, row {number}: {error}") from None
