"""The improved residual networks (IR) of ArcFace and AdaFace, from a safetensors file.

Input (N, 3, 112, 112) -> 3 x 3 convolution to 64 channels, batch norm, PReLU -> four stages of
units -> batch norm, linear, batch norm (no scale) -> (N, D). A unit is

    y = BN(conv3x3(PReLU(BN(conv3x3(BN(x)))), stride)) + shortcut(x)

where the shortcut is x at every stride-th pixel if the channels stay, else a 1 x 1 convolution with
batch norm. The number of units and their widths are read off the file, whose names are those of the
authors' code (input_layer, body, output_layer), with any prefix. Networks of other units (IR-SE,
IR-152 and deeper) are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

__all__ = ["IRNet", "load_ir_net"]

_ANCHOR = "input_layer.0.weight"


class _Unit(nn.Module):
    """(N, in, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if width != out:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Conv2d(width, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.PReLU(out),
            nn.Conv2d(out, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return result


class IRNet(nn.Module):
    """(N, 3, S, S) in [-1, 1] -> (N, D), not normalised.

    Args:
        widths: channels in and out of each unit; the first unit and each that widens halves the
            picture.
        first: channels of the first convolution.
        last: side of the last feature map in pixels, 7 for S = 112.
        embedding: D.
    """

    def __init__(
        self, widths: list[tuple[int, int]], first: int, last: int, embedding: int
    ) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        self.body = nn.Sequential(
            *(
                _Unit(width, out, 2 if number == 0 or width != out else 1)
                for number, (width, out) in enumerate(widths)
            )
        )
        out = widths[-1][1]
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(out),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(out * last * last, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.output_layer(self.body(self.input_layer(x)))
        return result


def load_ir_net(path: Path) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], str]:
    """The network of a safetensors file, and the prefix of its weights' names.

    The network takes float32 (N, 3, 112, 112) and gives float32 (N, D).

    Raises:
        ValueError: the file holds no such network.
    """
    state = load_file(path)
    anchors = [name for name in state if name.endswith(_ANCHOR)]
    if len(anchors) != 1:
        raise ValueError(
            f"judge adaface is {str(path)!r} with {len(anchors)} weights called {_ANCHOR}, "
            "allowed: 1, as in the authors' IR networks"
        )
    prefix = anchors[0].removesuffix(_ANCHOR)
    state = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    units = {int(name.split(".")[1]) for name in state if name.startswith("body.")}
    widths = []
    for number in sorted(units):
        weight = state[f"body.{number}.res_layer.1.weight"]
        widths.append((int(weight.shape[1]), int(weight.shape[0])))
    linear = state["output_layer.3.weight"]
    last = round((linear.shape[1] / widths[-1][1]) ** 0.5)
    net = IRNet(widths, int(state[_ANCHOR].shape[0]), last, int(linear.shape[0]))
    missing, unexpected = net.load_state_dict(state, strict=False)
    # Counters of batches are no weights; a head for training is not used.
    lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
    odd = [name for name in unexpected if name.split(".")[0] in ("input_layer", "body")]
    if lacking or odd:
        name = (lacking or odd)[0]
        raise ValueError(
            f"judge adaface is {str(path)!r}, where the weight {name} "
            f"{'is missing' if lacking else 'fits no IR network'}"
        )
    net.eval()

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(net(torch.from_numpy(pixels)).float().numpy())

    return run, prefix
