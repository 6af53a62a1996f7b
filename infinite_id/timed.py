"""A generator that costs a stated time and no GPU: for measuring everything around generation.

It ships with the package and is chosen like any method, so that a pipeline's own costs, its
backpressure and its behaviour under kills can be measured on a laptop.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from infinite_id.timed_config import TimedConfig
from infinite_id.types import (
    CancelledError,
    GeneratedImage,
    GenerationRequest,
    Generator,
    Identity,
    PreviewHook,
)

if TYPE_CHECKING:
    from infinite_id.base import BaseModel
    from infinite_id.config import Preset
    from infinite_id.methods import MethodSpec

__all__ = ["TimedGenerator", "timed"]


class TimedGenerator:
    """Makes a picture of coloured squares a request, drawn from its sample_id, and sleeps for what
    is left of the stated time."""

    def __init__(self, config: TimedConfig | None = None) -> None:
        self.config = config or TimedConfig()
        self.revision = f"timed-{self.config.seconds_per_batch:g}s-{self.config.block}px"

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        *,
        on_step: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        previews: PreviewHook | None = None,
    ) -> list[GeneratedImage]:
        """See `infinite_id.types.Generator`; one step, no previews."""
        if should_stop is not None and should_stop():
            raise CancelledError("stopped before the first step")
        if self.config.deadly and any(self.config.deadly in r.prompt for r in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + self.config.seconds_per_batch
        seconds = self.config.seconds_per_batch / max(len(requests), 1)
        made = [GeneratedImage(r.sample_id, self._picture(r), seconds) for r in requests]
        time.sleep(max(end - time.monotonic(), 0.0))
        if on_step is not None:
            on_step(1, 1)
        return made

    def _picture(self, request: GenerationRequest) -> np.ndarray:
        block = self.config.block
        rows, columns = -(-request.height // block), -(-request.width // block)
        seed = hashlib.blake2b(request.sample_id.encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(seed))
        squares = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        whole = squares.repeat(block, axis=0).repeat(block, axis=1)
        return whole[: request.height, : request.width]


def timed(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """The factory of `METHODS`; no base model, and none of the libraries that one needs."""
    return TimedGenerator(spec.config)
