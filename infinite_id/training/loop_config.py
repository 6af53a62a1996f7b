"""How a training loop optimises: rates, warm-up and decay, precision, averages. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["LoopConfig", "Precision"]

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How to optimise.

    Attributes:
        learning_rate, weight_decay: of AdamW.
        warmup_steps: linear rise of the rate.
        total_steps: the stage's budget, at whose end the rate has decayed; 0: it is held for ever.
        decay_share: of `total_steps`, the last part, in which the rate falls in a straight line.
        final_rate: what is left of the rate at the end, as a share of it.
        muon_rate: of Muon, which then moves the inner matrices and convolutions instead of AdamW;
            it rises and falls as the rate does. 0: AdamW alone.
        gradient_clip: largest norm of all gradients together.
        clip_over_mean: the same as a multiple of the norm's running mean, so that one bad batch
            does not hold AdamW up; 0: `gradient_clip` alone.
        second_moment: AdamW's second beta, 0 to below 1; 0.99 forgets an old scale of the gradients
            in a hundred steps, which a rate of 1e-3 held for long needs.
        accumulation: parts (micro-batches) a step.
        ema_decay: of the averaged weights, 0 for none; lower in the first steps.
        precision: "bfloat16" runs the forward pass in autocast, weights stay float32.
        checkpoint_seconds: wall seconds between checkpoints.
        log_seconds: wall seconds between reports.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: int = 100
    total_steps: int = 0
    decay_share: float = 1 / 3
    final_rate: float = 0.02
    muon_rate: float = 0.0
    gradient_clip: float = 1.0
    clip_over_mean: float = 0.0
    second_moment: float = 0.999
    accumulation: int = 1
    ema_decay: float = 0.0
    precision: Precision = "float32"
    checkpoint_seconds: float = 120.0
    log_seconds: float = 20.0

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate is {self.learning_rate}, allowed: above 0, finite")
        if self.total_steps < 0:
            raise ValueError(f"total_steps is {self.total_steps}, allowed: 0 or more")
        for name in ("decay_share", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed: 0 to 1")
        if not (self.muon_rate >= 0 and math.isfinite(self.muon_rate)):
            raise ValueError(f"muon_rate is {self.muon_rate}, allowed: 0 or more, finite")
        if not (self.clip_over_mean >= 0 and math.isfinite(self.clip_over_mean)):
            raise ValueError(f"clip_over_mean is {self.clip_over_mean}, allowed: 0 or more, finite")
        if not 0 <= self.second_moment < 1:
            raise ValueError(f"second_moment is {self.second_moment}, allowed: 0 or more, below 1")
        if self.accumulation < 1:
            raise ValueError(f"accumulation is {self.accumulation}, allowed: 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}, allowed: 0 or more, below 1")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}, allowed: float32, bfloat16")

    def rate_share(self, step: int, warm_from: int = 0) -> float:
        """The share of the rate at a step (0 is the first): warm-up, hold, decay.

        Args:
            step: steps done before.
            warm_from: the step at which this optimiser began.
        """
        warm = min(1.0, (step + 1 - warm_from) / max(1, self.warmup_steps))
        if not self.total_steps:
            return warm
        left = 1 - (step + 1) / self.total_steps
        share = min(1.0, left / self.decay_share) if self.decay_share else 1.0
        return warm * max(self.final_rate, share)
