"""What the stages of the pocket model share: data, device, and the weights in the state folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from infinite_id.pocket.weights import EDITIONS, Edition
from infinite_id.training.dataset import Pictures
from infinite_id.training.face_network import TorchSFace
from infinite_id.training.loop import Progress
from infinite_id.training.loop_config import LoopConfig
from infinite_id.training.pack import Faces
from infinite_id.training.workers import Workers

__all__ = [
    "Context",
    "Stage",
    "load_stage",
    "on_device",
    "pixels_of",
    "stage_file",
    "stage_weights",
]


@dataclass(frozen=True, slots=True)
class Context:
    """What every stage works with.

    Attributes:
        state: folder of checkpoints, weights and caches.
        device: torch device.
        precision: of the forward pass.
        batch_scale: factor of every stage's batch size; 1 suits two CPU cores.
        people, pictures: of the split "train".
        scorer_pictures: of the split "scorer".
        report: called as report(stage, progress).
        should_stop: asked between steps; True ends the stage in good order.
        identity_weight: of `identity_loss` in the training of adapters; 0: the paper's loss.
        size: of the pictures in pixels, of `EDITIONS`; says which networks are trained.
        workers: that train together; None: this process trains alone.
        total_pictures: of the stage's budget, to whose end the rate decays; 0: it is held.
        network: that sees faces in losses, of a data pack; None: the embedded one's file is read.
        compiled: the networks' forward and backward passes are compiled, which takes minutes once.
    """

    state: Path
    device: torch.device
    precision: Any
    batch_scale: int
    people: Faces
    pictures: Pictures
    scorer_pictures: Pictures
    report: Callable[[str, Progress], None]
    should_stop: Callable[[], bool] | None = None
    identity_weight: float = 0.0
    size: int = 64
    workers: Workers | None = None
    total_pictures: int = 0
    network: TorchSFace | None = None
    compiled: bool = False

    @property
    def edition(self) -> Edition:
        """What is trained."""
        return EDITIONS[self.size]

    def total_steps(self, batch: int) -> int:
        """The budget in steps of `batch` pictures a worker; 0: none was given."""
        workers = 1 if self.workers is None else self.workers.count
        return math.ceil(self.total_pictures / (batch * workers))

    def run(self, model: nn.Module) -> Callable[..., Any]:
        """The model's forward pass, compiled where that is wanted."""
        return torch.compile(model, dynamic=False) if self.compiled else model


Stage = tuple[nn.Module, Callable[[int, int], Tensor], LoopConfig]
"""What a stage trains: the module, its loss as (step, part) -> scalar, and how to optimise."""


def load_stage(state: Path, stage: str, model: nn.Module) -> Any:
    """The module with the averaged weights of a stage, frozen, in eval mode.

    Raises:
        FileNotFoundError: the stage was not trained yet.
        ValueError: its weights are another model's.
    """
    tensors, _ = stage_weights(state, stage)
    own = model.state_dict()
    for name in tensors.keys() & own.keys():
        if tensors[name].shape != own[name].shape:
            raise ValueError(
                f"weights of stage {stage} in {state} do not fit: {name} is "
                f"{tuple(tensors[name].shape)}, allowed: {tuple(own[name].shape)}"
            )
    missing, surplus = model.load_state_dict(tensors, strict=False)
    wanted = {name for name, _ in model.named_parameters()}
    if surplus or wanted & set(missing):
        raise ValueError(
            f"weights of stage {stage} in {state} do not fit: lack {missing[:3]}, "
            f"surplus {surplus[:3]}"
        )
    return model.requires_grad_(False).eval()


def stage_weights(state: Path, stage: str) -> tuple[dict[str, Tensor], int]:
    """The averaged weights of a stage and the steps they had."""
    path = state / f"{stage_file(stage)}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"stage {stage} has no weights in {state}; train it first")
    with safe_open(path, framework="pt") as file:
        return load_file(path), int((file.metadata() or {})["step"])


def stage_file(stage: str) -> str:
    """The stem of a stage's files."""
    return stage.replace(":", "-")


def on_device(context: Context, model: nn.Module) -> Any:
    """The model on the device; convolutions run faster with channels last, on both kinds."""
    return model.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def pixels_of(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, 3, H, W) in [0, 1] of uint8 (B, H, W, 3)."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return tensor.permute(0, 3, 1, 2).float() / 255
