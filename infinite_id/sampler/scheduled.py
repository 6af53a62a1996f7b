"""Latents from their beginning on, moved by a scheduler: what every way of denoising shares."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.config import SamplerConfig
from infinite_id.init_image import InitImage, first_step
from infinite_id.sampler.init_images import begin, check_init_images

__all__ = ["ScheduledLatents", "guided"]


def guided(predicted: Tensor, scales: Tensor) -> Tensor:
    """Classifier-free guidance (N, C, h, w) of rows (2 N, C, h, w), those without text first.

    Args:
        predicted: by the UNet.
        scales: (N, 1, 1, 1); 1 and less are no guidance.
    """
    without, with_text = predicted.chunk(2)
    return without + scales.clamp(min=1.0) * (with_text - without)


class ScheduledLatents:
    """Latents of rows and the scheduler that moves them.

    Args:
        base: whose scheduler and noise.
        sampler: kind of scheduler and number of steps.
        seeds: of the noise of each row.
        height, width: of the pictures, in pixels.
        init_images: that rows begin with, None for noise; all begin at one step.

    Attributes:
        value: (N, C, h, w), float32.
        timesteps: of the steps that are taken.

    Raises:
        ValueError: an initial picture does not fit, or leaves no step.
    """

    def __init__(
        self,
        base: BaseModel,
        sampler: SamplerConfig,
        seeds: Sequence[int],
        height: int,
        width: int,
        init_images: Sequence[InitImage | None] | None = None,
    ) -> None:
        steps = sampler.num_inference_steps
        check_init_images(base, init_images, (height, width), steps)
        pictures = list(init_images or [None] * len(seeds))
        self._scheduler = base.scheduler(sampler.scheduler, steps)
        first = first_step(pictures[0], steps) * self._scheduler.order
        self.timesteps: Tensor = self._scheduler.timesteps[first:]
        if any(pictures) and hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(first)
        size = (height, width)
        self.value, self._kept = begin(
            base, self._scheduler, seeds, size, pictures, self.timesteps[0]
        )
        self._taken = 0
        self._dtype = base.dtype
        self._moved: tuple[Tensor, ...] = ()
        self._arguments: dict[str, Any] = {}
        if "generator" in inspect.signature(self._scheduler.step).parameters:
            # Schedulers that add noise draw it from each row's own generator too.
            self._arguments["generator"] = [
                torch.Generator("cpu").manual_seed(seed ^ 0x5EED) for seed in seeds
            ]

    def scaled(self, timestep: Tensor) -> Tensor:
        """What the UNet sees of them, in its dtype."""
        scaled: Tensor = self._scheduler.scale_model_input(self.value, timestep)
        return scaled.to(self._dtype)

    def move(self, predicted: Tensor, timestep: Tensor) -> None:
        """One step by a prediction (N, C, h, w)."""
        self._moved = self._scheduler.step(
            predicted, timestep, self.value, **self._arguments, return_dict=False
        )
        self.value, self._taken = self._moved[0], self._taken + 1
        if self._kept is not None:
            left = self.timesteps[self._taken :]
            following = left[0] if len(left) else None
            self.value = self._kept.into(self.value, self._scheduler, following)

    def clean(self) -> Tensor:
        """The clean latents that the last step predicts, of the same shape."""
        # DDIM, Euler and LCM return the prediction; DPM-Solver++ keeps it for its next step.
        return self._moved[1] if len(self._moved) > 1 else self._scheduler.model_outputs[-1]
