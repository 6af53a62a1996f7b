"""Settings of the timed generator. Light: no numpy."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

__all__ = ["TimedConfig"]


def _seconds_from_environment() -> float:
    text = os.environ.get("INFINITE_ID_TIMED_SECONDS", "0")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"INFINITE_ID_TIMED_SECONDS is {text!r}, allowed: a number") from None


@dataclass(frozen=True, slots=True)
class TimedConfig:
    """What a batch of the timed generator costs and what its pictures look like.

    Attributes:
        seconds_per_batch: slept for each call, however many requests it holds; >= 0; by default
            the environment variable INFINITE_ID_TIMED_SECONDS, else 0.
        block: side of the picture's uniform squares in pixels; larger squares make smaller files.
        deadly: a request whose prompt holds this text kills the process, as a crash in C code
            would; "" for none; by default the environment variable INFINITE_ID_TIMED_DEADLY.

    Raises:
        ValueError: a value out of range.
    """

    seconds_per_batch: float = field(default_factory=_seconds_from_environment)
    block: int = 8
    deadly: str = field(default_factory=lambda: os.environ.get("INFINITE_ID_TIMED_DEADLY", ""))

    def __post_init__(self) -> None:
        if not math.isfinite(self.seconds_per_batch) or self.seconds_per_batch < 0:
            raise ValueError(
                f"seconds_per_batch is {self.seconds_per_batch}, allowed: finite, 0 or more"
            )
        if self.block < 1:
            raise ValueError(f"block is {self.block}, allowed: 1 or more")
