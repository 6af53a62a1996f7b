"""The embedded SFace from its ONNX file: onnxruntime has no gradients, torch's own layers do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from infinite_id.faces.embedded import sface_path
from infinite_id.training.face_network import Affine, FrozenPReLU, TorchSFace

__all__ = ["load_face_network"]


def load_face_network(path: Path | None = None) -> TorchSFace:
    """The network of a file.

    Args:
        path: ONNX file with float32 weights; by default the embedded network's.

    Raises:
        PackageFileError: the embedded network is not installed.
        ValueError: the file holds an operation that this reader does not know.
    """
    return TorchSFace(_read(path or sface_path()))


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
    return [_affine(layer) if isinstance(layer, nn.BatchNorm2d) else layer for layer in layers]


def _affine(norm: nn.BatchNorm2d) -> Affine:
    """What a normalisation with fixed statistics is."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight / (variance + norm.eps).sqrt()
    return Affine(scale.detach(), (norm.bias - scale * mean).detach())


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
    return FrozenPReLU(tensors[0].flatten())


def _linear(node: onnx.NodeProto, tensors: list[Tensor]) -> nn.Module:
    weight, bias = tensors
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


_READERS: dict[str, Callable[[onnx.NodeProto, list[Tensor]], nn.Module]] = {
    "Sub": lambda node, tensors: Affine(torch.ones(1), -tensors[0]),
    "Mul": lambda node, tensors: Affine(tensors[0], torch.zeros(1)),
    "Conv": _conv,
    "BatchNormalization": _norm,
    "PRelu": _prelu,
    "Flatten": lambda node, tensors: nn.Flatten(),
    "Gemm": _linear,
}
