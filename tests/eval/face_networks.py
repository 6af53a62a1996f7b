"""Tiny networks in the form of face recognition: the embedding is the mean of each channel."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper


def save_channel_means(path: Path, *, side: int = 112, norm: bool = False) -> Path:
    """(N, 3, side, side) -> (N, 3), the mean of each channel as it was fed; `norm`: a second
    output, as AdaFace's exports have."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    outputs = [helper.make_tensor_value_info("embedding", 1, ["N", 3])]
    if norm:
        nodes.append(helper.make_node("ReduceL2", ["embedding"], ["norm"], axes=[1]))
        outputs.append(helper.make_tensor_value_info("norm", 1, ["N", 1]))
    value = helper.make_tensor_value_info("x", 1, ["N", 3, side, side])
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", [value], outputs),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, path)
    return path
