"""SFace as a differentiable module, for losses on what a recognition network sees.

onnxruntime has no gradients, so the embedded network's file is read into torch's own layers. It is
the network that conditions the pocket model; the judge of the evaluation takes no part in training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from infinite_id.faces.detection import ALIGNED_SIZE, ARCFACE_TEMPLATE, similarity_transform
from infinite_id.faces.embedded import sface_path

__all__ = ["TorchSFace", "align", "align_matrices"]

# Of the layers: the last activations of 128 x 56 x 56, 256 x 28 x 28, 512 x 14 x 14, 1024 x 7 x 7.
_INNER = (15, 23, 47, 55)


class TorchSFace(nn.Module):
    """Frozen SFace: aligned faces (B, 3, 112, 112), RGB in [0, 255], to unit vectors (B, 128).

    Args:
        path: ONNX file with float32 weights; by default the embedded network's.

    Raises:
        PackageFileError: the embedded network is not installed.
        ValueError: the file holds an operation that this reader does not know.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_read(path or sface_path()))
        self.requires_grad_(False).eval()
        # In bfloat16 a fifth faster than torch's own order.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, faces: Tensor) -> Tensor:
        """Unit vectors (B, 128) of faces (B, 3, 112, 112)."""
        return self.seen(faces)[-1]

    def seen(self, faces: Tensor) -> list[Tensor]:
        """Activations (B, C, h, w) from shallow to deep, then the unit vectors (B, 128)."""
        kept = []
        for number, layer in enumerate(self.layers):
            faces = layer(faces)
            if number in _INNER:
                kept.append(faces)
        return [*kept, F.normalize(faces, dim=-1)]


def align_matrices(landmarks: NDArray[np.float32]) -> Tensor:
    """float32 (B, 2, 3): pixels of an aligned face to pixels of the picture with those landmarks.

    Args:
        landmarks: (B, 5, 2), x y in pixels of the picture.
    """
    rows = []
    for points in landmarks:
        matrix = np.vstack([similarity_transform(points, ARCFACE_TEMPLATE), [0, 0, 1]])
        rows.append(np.linalg.inv(matrix)[:2])
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def align(pictures: Tensor, matrices: Tensor) -> Tensor:
    """(B, 3, 112, 112): `infinite_id.faces.detection.align_face` with gradients, zero outside.

    Args:
        pictures: (B, 3, H, W).
        matrices: of `align_matrices`.
    """
    axis = torch.arange(ALIGNED_SIZE, dtype=torch.float32, device=pictures.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    source = torch.einsum("bij,hwj->bhwi", matrices.to(pictures.device), points)
    size = torch.tensor([pictures.shape[3], pictures.shape[2]], device=pictures.device)
    grid = (2 * source + 1) / size - 1
    return F.grid_sample(pictures, grid.to(pictures.dtype), align_corners=False)


class _Affine(nn.Module):
    """`(x - shift) * scale` of every value."""

    def __init__(self, shift: float, scale: float) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) * self.scale


class _FrozenPReLU(nn.Module):
    """PReLU with slopes (C,) that get no gradient; torch's own takes time for it all the same."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.slopes: Tensor
        self.register_buffer("slopes", (1 - slopes).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.slopes.to(x.dtype) * torch.relu(-x)


def _read(path: Path) -> list[nn.Module]:
    graph = onnx.load(path).graph
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    layers: list[nn.Module] = []
    for node in graph.node:
        if node.op_type in ("Constant", "Dropout"):
            continue
        if node.op_type == "Reshape":
            weight, shape = (values[name] for name in node.input)
            values[node.output[0]] = weight.reshape(shape.tolist())
            continue
        if node.op_type not in _READERS:
            raise ValueError(
                f"{path.name} holds the operation {node.op_type!r}, allowed: {', '.join(_READERS)}"
            )
        tensors = [values[name] for name in node.input[1:]]
        layer = _READERS[node.op_type](node, tensors)
        # A normalisation after a convolution or a matrix is part of it.
        if isinstance(layer, nn.BatchNorm2d) and layers and isinstance(layers[-1], nn.Conv2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1].eval(), layer.eval())
        elif isinstance(layer, nn.BatchNorm2d) and layers and isinstance(layers[-1], nn.Linear):
            layers[-1] = fuse_linear_bn_eval(layers[-1].eval(), layer.eval())
        else:
            layers.append(layer)
    return layers


def _conv(node: onnx.NodeProto, tensors: list[Tensor]) -> nn.Module:
    lists = {a.name: list(a.ints) for a in node.attribute}
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    weight = tensors[0]
    height, width = weight.shape[2:]
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (height, width),
        stride=(lists["strides"][0], lists["strides"][1]),
        padding=(lists["pads"][0], lists["pads"][1]),
        groups=groups,
        bias=len(tensors) > 1,
    )
    layer.load_state_dict(dict(zip(("weight", "bias"), tensors, strict=False)))
    return layer


def _norm(node: onnx.NodeProto, tensors: list[Tensor]) -> nn.Module:
    (epsilon,) = (a.f for a in node.attribute if a.name == "epsilon")
    layer = nn.BatchNorm2d(len(tensors[0]), eps=epsilon)
    names = ("weight", "bias", "running_mean", "running_var")
    layer.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return layer


def _prelu(node: onnx.NodeProto, tensors: list[Tensor]) -> nn.Module:
    return _FrozenPReLU(tensors[0].flatten())


def _linear(node: onnx.NodeProto, tensors: list[Tensor]) -> nn.Module:
    weight, bias = tensors
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


_READERS: dict[str, Callable[[onnx.NodeProto, list[Tensor]], nn.Module]] = {
    "Sub": lambda node, tensors: _Affine(float(tensors[0]), 1.0),
    "Mul": lambda node, tensors: _Affine(0.0, float(tensors[0])),
    "Conv": _conv,
    "BatchNormalization": _norm,
    "PRelu": _prelu,
    "Flatten": lambda node, tensors: nn.Flatten(),
    "Gemm": _linear,
}
