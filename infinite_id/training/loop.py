"""The optimisation loop that every stage and every size shares: resumable, averaged, bounded.

A run that is killed and resumed loses at most what came after the last checkpoint. Where the loss
is a function of the step number alone (`loss(step, part)` draws its batch and noise from generators
seeded with it, as the pocket model's stages do), it continues the same sequence; a loss that reads
a stream goes on with other pictures.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from infinite_id.training.checkpoints import CheckpointError, CheckpointStore
from infinite_id.training.loop_config import LoopConfig
from infinite_id.training.muon import Muon
from infinite_id.training.workers import Workers

__all__ = [
    "Progress",
    "TrainingLoop",
]


@dataclass(frozen=True, slots=True)
class Progress:
    """A report: steps done, mean loss since the last report, steps a second, norm of gradients."""

    step: int
    loss: float
    steps_per_second: float
    gradient_norm: float


@contextlib.contextmanager
def _attention_of(device: torch.device) -> Iterator[None]:
    """The kernel whose backward pass is quick: on a CPU, torch's fused one is slow."""
    if device.type != "cpu":
        yield
        return
    former = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    # Named for CUDA, it holds for the CPU too: products stay in bfloat16.
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(former)


def _inner_matrices(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Matrices and convolutions between the first and the last layer."""
    ends = ("conv_in", "conv_out", "quant", "embedding", "time_emb")
    return {n: p for n, p in parameters.items() if p.ndim >= 2 and not any(e in n for e in ends)}


class TrainingLoop:
    """AdamW over the trainable parameters of a model.

    Args:
        model: its parameters with `requires_grad` are trained, saved and averaged; no other.
        loss: (step, part) -> scalar; part counts micro-batches, 0 <= part < accumulation.
        config: see `LoopConfig`.
        store: of the checkpoint; None for none.
        signature: what a checkpoint must agree with to be resumed, JSON values.
        report: called with each `Progress`.
        writer: False on all workers but one of a distributed run.
        sync: (last part?) -> context that holds gradient exchange back until the last part.
        workers: that train the same model on other parts; None: this process trains alone.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[int, int], Tensor],
        config: LoopConfig,
        *,
        store: CheckpointStore | None = None,
        signature: dict[str, Any] | None = None,
        report: Callable[[Progress], None] | None = None,
        writer: bool = True,
        sync: Callable[[bool], contextlib.AbstractContextManager] | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.model, self.loss, self.config = model, loss, config
        self.store, self.report, self.writer = store, report, writer
        self.signature = json.dumps(signature or {}, sort_keys=True)
        self.sync = sync or (lambda last: contextlib.nullcontext())
        self.trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.trainable:
            raise ValueError("the model has no trainable parameter, allowed: one or more")
        self.device = next(iter(self.trainable.values())).device
        self.workers = workers
        inner = _inner_matrices(self.trainable) if config.muon_rate else {}
        self.optimizer = torch.optim.AdamW(
            [p for n, p in self.trainable.items() if n not in inner],
            lr=config.learning_rate,
            betas=(0.9, config.second_moment),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.muon = Muon(inner.values(), config.muon_rate) if inner else None
        self.ema = {n: p.detach().clone() for n, p in self.trainable.items()}
        self.norm_mean: float | None = None
        self.step = self.warm_from = 0

    def resume(self) -> bool:
        """Continues from the store's checkpoint; False where there is none.

        Raises:
            CheckpointError: unreadable, or made with another configuration or other shapes.
        """
        data = self.store.read() if self.store is not None else None
        if data is None:
            return False
        try:
            state = torch.load(io.BytesIO(data), map_location=self.device, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"checkpoint cannot be read: {error}") from error
        if state["signature"] != self.signature:
            raise CheckpointError(
                f"checkpoint was made with {state['signature']}, this run has {self.signature}"
            )
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                if name not in state["model"] or state["model"][name].shape != parameter.shape:
                    raise CheckpointError(f"checkpoint does not fit the model at {name!r}")
                parameter.copy_(state["model"][name])
                self.ema[name].copy_(state["ema"][name])
        if (self.muon is None) != (state.get("muon") is None):
            raise CheckpointError("checkpoint does not fit: one of it and this run lacks Muon")
        self.optimizer.load_state_dict(state["optimizer"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
        self.norm_mean = state.get("norm_mean")
        self.step = int(state["step"])
        return True

    def start_from(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Begins at these weights, after `step` steps, with a fresh optimiser that warms up anew.

        Raises:
            CheckpointError: a trainable parameter is missing or has another shape.
        """
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                if name not in tensors or tensors[name].shape != parameter.shape:
                    raise CheckpointError(f"weights do not fit the model at {name!r}")
                parameter.copy_(tensors[name])
                self.ema[name].copy_(tensors[name])
        self.step = self.warm_from = step

    def save(self) -> None:
        """Writes the checkpoint."""
        if self.store is None or not self.writer:
            return
        state = {
            "signature": self.signature,
            "step": self.step,
            "model": {n: p.detach() for n, p in self.trainable.items()},
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "muon": None if self.muon is None else self.muon.state_dict(),
            "norm_mean": self.norm_mean,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.store.write(buffer.getvalue())

    def run(
        self,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> int:
        """Trains until `steps` are done in all, `seconds` of this call are over, or told to stop.

        Returns:
            Steps done in all. A checkpoint is written at the end.

        Raises:
            ValueError: neither limit given.
            FloatingPointError: the loss or the gradient is NaN or infinite; the last checkpoint is
                intact.
        """
        if steps is None and seconds is None:
            raise ValueError("steps and seconds are both None, allowed: one of them or both")
        start = saved = logged = time.monotonic()
        losses: list[Tensor] = []
        first = self.step
        norm = torch.zeros(())
        while steps is None or self.step < steps:
            over = seconds is not None and time.monotonic() - start >= seconds
            over = over or (should_stop is not None and should_stop())
            if over if self.workers is None else self.workers.any(over):
                break
            loss, norm = self._optimise()
            losses.append(loss)
            now = time.monotonic()
            if now - logged >= self.config.log_seconds:
                self._log(losses, (self.step - first) / (now - logged), norm)
                losses, logged, first = [], now, self.step
            if now - saved >= self.config.checkpoint_seconds:
                self._check(losses, norm)
                self.save()
                saved = time.monotonic()
        if losses:
            elapsed = max(time.monotonic() - logged, 1e-6)
            self._log(losses, (self.step - first) / elapsed, norm)
        self.save()
        return self.step

    @contextlib.contextmanager
    def averaged(self) -> Any:
        """The model holds its averaged weights inside; where none are kept, its own."""
        if not self.config.ema_decay:
            yield self.model
            return
        own = {n: p.detach().clone() for n, p in self.trainable.items()}
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(self.ema[name])
        try:
            yield self.model
        finally:
            with torch.no_grad():
                for name, parameter in self.trainable.items():
                    parameter.copy_(own[name])

    def _optimise(self) -> tuple[Tensor, Tensor]:
        config = self.config
        share = config.rate_share(self.step, self.warm_from)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        # Each worker has parts of its own.
        first = 0 if self.workers is None else self.workers.rank * config.accumulation
        total = torch.zeros((), device=self.device)
        for part in range(config.accumulation):
            with self.sync(part == config.accumulation - 1):
                with (
                    _attention_of(self.device),
                    torch.autocast(
                        self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
                    ),
                ):
                    loss = self.loss(self.step, first + part) / config.accumulation
                loss.backward()
            total += loss.detach()
        if self.workers is not None:
            self.workers.average([p.grad for p in self.trainable.values() if p.grad is not None])
        norm = self._clip()
        self.optimizer.step()
        if self.muon is not None:
            self.muon.step(config.muon_rate * share)
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        if config.ema_decay:
            decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.ema.values()), list(self.trainable.values()), 1 - decay
                )
        return total, norm

    def _clip(self) -> Tensor:
        """Scales the gradients down to the largest norm allowed; the norm before."""
        limit, multiple = self.config.gradient_clip, self.config.clip_over_mean
        if multiple and self.norm_mean is not None:
            limit = min(limit, multiple * self.norm_mean)
        norm = nn.utils.clip_grad_norm_(self.trainable.values(), limit)
        if multiple:
            # Of a bad batch as much counts as it may do: else a few of them lift the mean.
            own = min(float(norm), limit)
            self.norm_mean = own if self.norm_mean is None else 0.98 * self.norm_mean + 0.02 * own
        return norm

    def _log(self, losses: list[Tensor], rate: float, norm: Tensor) -> None:
        mean = self._check(losses, norm)
        if self.report is not None:
            self.report(Progress(self.step, mean, rate, float(norm)))

    def _check(self, losses: list[Tensor], norm: Tensor) -> float:
        # Read rarely: on a GPU every read of a loss waits for the device.
        mean = float(torch.stack(losses).mean()) if losses else 0.0
        # An earlier step's gradient shows in the losses after it, the last one's nowhere else.
        for name, value in (("loss", mean), ("norm of the gradient", float(norm))):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} near step {self.step}; the last checkpoint is intact, "
                    "lower the learning rate"
                )
        return mean
