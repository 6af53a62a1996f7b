"""Latents from their noise on, moved by a scheduler: what every way of denoising shares."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.config import SamplerConfig

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

    Attributes:
        value: (N, C, h, w), float32.
        timesteps: of the steps.
    """

    def __init__(
        self, base: BaseModel, sampler: SamplerConfig, seeds: Sequence[int], height: int, width: int
    ) -> None:
        self._scheduler = base.scheduler(sampler.scheduler, sampler.num_inference_steps)
        self.timesteps: Tensor = self._scheduler.timesteps
        noise = torch.stack([base.noise(seed, height, width) for seed in seeds]).to(base.device)
        self.value = noise * self._scheduler.init_noise_sigma
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
        self.value = self._moved[0]

    def clean(self) -> Tensor:
        """The clean latents that the last step predicts, of the same shape."""
        # DDIM, Euler and LCM return the prediction; DPM-Solver++ keeps it for its next step.
        return self._moved[1] if len(self._moved) > 1 else self._scheduler.model_outputs[-1]
