"""FaceNet's frozen TensorFlow graph -> ONNX, without TensorFlow.

The file is a GraphDef: protocol-buffer fields of nodes (name 1, op 2, inputs 3, attributes 5).
Batch normalisation is already folded into the convolutions but for the last layer. TensorFlow
computes in NHWC, ONNX in NCHW: kernels are transposed, and concatenation is along axis 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from eval.judges.facenet import IMAGE_SIZE, WIDTH

__all__ = ["convert_graph"]

DTYPES = {1: np.dtype("<f4"), 3: np.dtype("<i4")}
LAST = "InceptionResnetV1/Bottleneck/BatchNorm/cond/FusedBatchNorm_1"


@dataclass(slots=True)
class _Node:
    name: str = ""
    op: str = ""
    inputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


def convert_graph(source: Path, target: Path) -> None:
    """Writes FaceNet as ONNX: `input` float32 (batch, 3, 160, 160) -> `embedding` (batch, 512).

    Everything after the last batch normalisation (the division by the L2 norm) is left out.

    Raises:
        ValueError: the graph holds an operation that this conversion does not know.
    """
    nodes = [_read_node(value) for number, value in _fields(source.read_bytes()) if number == 1]
    constants = {
        node.name: _tensor(_one(node.attributes["value"], 8))
        for node in nodes
        if node.op == "Const"
    }
    graph: list[onnx.NodeProto] = []
    weights: dict[str, NDArray] = {}
    by_name = {node.name: node for node in nodes}
    # `^name` is a control dependency: an order, not an input.
    needs = {node.name: [i.removeprefix("^") for i in node.inputs] for node in nodes}
    for node in map(by_name.__getitem__, TopologicalSorter(_upstream(needs, LAST)).static_order()):
        if node.op in ("Const", "Placeholder"):
            continue
        if node.op not in CONVERTERS:
            raise ValueError(f"graph operation is {node.op!r}, allowed: {', '.join(CONVERTERS)}")
        graph.append(CONVERTERS[node.op](node, constants, weights))
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            graph,
            "facenet",
            [value("input", onnx.TensorProto.FLOAT, ["batch", 3, IMAGE_SIZE, IMAGE_SIZE])],
            [value(LAST, onnx.TensorProto.FLOAT, ["batch", WIDTH])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _upstream(needs: dict[str, list[str]], name: str) -> dict[str, list[str]]:
    """The part of `needs` that `name` depends on."""
    part: dict[str, list[str]] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in part:
            part[current] = needs[current]
            waiting += needs[current]
    return part


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value): int for varints, memoryview for everything else."""
    view, at = memoryview(data), 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(view, at)
        else:
            length = {1: 8, 5: 4}[kind]
        yield key >> 3, view[at : at + length]
        at += length


def _one(data: memoryview, number: int) -> Any:
    return dict(_fields(data))[number]


def _read_node(data: memoryview) -> _Node:
    node = _Node()
    for number, value in _fields(data):
        if number == 1:
            node.name = bytes(value).decode()
        elif number == 2:
            node.op = bytes(value).decode()
        elif number == 3:
            node.inputs.append(bytes(value).decode().removesuffix(":0"))
        elif number == 5:
            entry = dict(_fields(value))
            node.attributes[bytes(entry[1]).decode()] = entry[2]
    return node


def _tensor(data: memoryview) -> NDArray:
    dtype, shape, content = DTYPES[1], [], b""
    for number, value in _fields(data):
        if number == 1:
            dtype = DTYPES[value]
        elif number == 2:
            shape = [dict(_fields(dim)).get(1, 0) for n, dim in _fields(value) if n == 2]
        elif number in (4, 5):
            content = bytes(value)
        elif number == 7:
            return np.array(_varint(value, 0)[0], dtype=dtype)
    # A constant of one repeated value is stored once.
    return np.resize(np.frombuffer(content, dtype), shape) if math.prod(shape) else np.empty(shape)


def _ints(node: _Node, name: str) -> list[int]:
    packed = _one(_one(node.attributes[name], 1), 3)
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
    return values[1:3]


def _padding(node: _Node) -> str:
    return "SAME_UPPER" if bytes(_one(node.attributes["padding"], 2)) == b"SAME" else "VALID"


Constants = dict[str, NDArray]


def _make(op: str, node: _Node, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [node.name], name=node.name, **attributes)


def _weight(name: str, array: NDArray, weights: Constants) -> str:
    weights[name] = np.ascontiguousarray(array)
    return name


def _conv(node: _Node, constants: Constants, weights: Constants) -> onnx.NodeProto:
    kernel = constants[node.inputs[1]].transpose(3, 2, 0, 1)
    name = _weight(node.inputs[1], kernel, weights)
    return _make(
        "Conv",
        node,
        [node.inputs[0], name],
        strides=_ints(node, "strides"),
        kernel_shape=kernel.shape[2:],
        auto_pad=_padding(node),
    )


def _bias(node: _Node, constants: Constants, weights: Constants) -> onnx.NodeProto:
    bias = constants[node.inputs[1]].reshape(1, -1, 1, 1)
    return _make("Add", node, [node.inputs[0], _weight(node.inputs[1], bias, weights)])


def _pool(node: _Node, constants: Constants, weights: Constants) -> onnx.NodeProto:
    return _make(
        {"MaxPool": "MaxPool", "AvgPool": "AveragePool"}[node.op],
        node,
        node.inputs,
        kernel_shape=_ints(node, "ksize"),
        strides=_ints(node, "strides"),
        auto_pad=_padding(node),
    )


def _concat(node: _Node, constants: Constants, weights: Constants) -> onnx.NodeProto:
    return _make("Concat", node, node.inputs[:-1], axis=1)


def _elementwise(node: _Node, constants: Constants, weights: Constants) -> onnx.NodeProto:
    for name in node.inputs:
        if name in constants:
            _weight(name, constants[name], weights)
    return _make(node.op, node, node.inputs)


def _flatten(node: _Node, constants: Constants, weights: Constants) -> onnx.NodeProto:
    return _make("Flatten", node, node.inputs[:1])


def _norm(node: _Node, constants: Constants, weights: Constants) -> onnx.NodeProto:
    source, gamma, *others = node.inputs
    beta = constants[others[0]]
    names = [_weight(gamma, np.resize(constants[gamma], beta.shape), weights)]
    names += [_weight(name, constants[name], weights) for name in others]
    epsilon = float(np.frombuffer(_one(node.attributes["epsilon"], 4), "<f4")[0])
    return _make("BatchNormalization", node, [source, *names], epsilon=epsilon)


CONVERTERS: dict[str, Callable[[_Node, Constants, Constants], onnx.NodeProto]] = {
    "Conv2D": _conv,
    "BiasAdd": _bias,
    "MaxPool": _pool,
    "AvgPool": _pool,
    "ConcatV2": _concat,
    "Relu": _elementwise,
    "Add": _elementwise,
    "Mul": _elementwise,
    "MatMul": _elementwise,
    "Reshape": _flatten,
    "FusedBatchNorm": _norm,
}
