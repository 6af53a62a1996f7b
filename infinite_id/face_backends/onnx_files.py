"""ONNX plumbing shared by the face networks: sessions with fixed thread counts, int8 folding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = ["fold_int8_weights", "onnx_session", "session_options"]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options of a session that uses `threads` threads within an operator and one across them.

    Spinning is off: idle threads of many actors on one machine would steal each other's cores.

    Raises:
        ValueError: `threads` is less than 1 (0 would mean "all cores" to onnxruntime).
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}, allowed: 1 or more")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def onnx_session(
    path: Path, *, threads: int = 1, providers: Sequence[str] | None = None
) -> onnxruntime.InferenceSession:
    """A session over the file, on the CPU unless `providers` says otherwise.

    Raises:
        ValueError: a provider that this onnxruntime does not have, or threads < 1.
    """
    chosen = list(providers) if providers is not None else ["CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    for provider in chosen:
        if provider not in available:
            raise ValueError(
                f"onnxruntime provider is {provider!r}, allowed here: {', '.join(available)}"
            )
    return onnxruntime.InferenceSession(
        str(path), sess_options=session_options(threads), providers=chosen
    )


def fold_int8_weights(source: Path, target: Path, symbolic: dict[int, str]) -> None:
    """Writes `source` with its block-quantised weights as plain float32 initialisers.

    onnxruntime refuses the 2-D block form of `DequantizeLinear` in these files, and the weights
    are constants: `y = (x - zero_point) * scale` per block is computed here, once.

    Args:
        source: ONNX file whose `DequantizeLinear` nodes all have constant inputs.
        target: file to write.
        symbolic: axes of the first input that become symbolic, axis -> name.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    folded = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    used: set[str] = set()
    for node in folded:
        quantised, scale, zero_point = (
            numpy_helper.to_array(constants[name]) for name in node.input
        )
        attributes = {a.name: a.i for a in node.attribute}
        weight = _dequantise(
            quantised, scale, zero_point, attributes["axis"], attributes["block_size"]
        )
        graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
        graph.node.remove(node)
        used.update(node.input)
    for name in used:
        graph.initializer.remove(constants[name])
    for axis, name in symbolic.items():
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for output in graph.output:
        for dimension in output.type.tensor_type.shape.dim[:-1]:
            dimension.Clear()
    del graph.value_info[:]
    # Old exports list weights among the inputs; those left over would have to be fed.
    consumed = {name for node in graph.node for name in node.input}
    kept = [i for i in graph.input if i.name in consumed and i.name not in constants]
    del graph.input[:]
    graph.input.extend(kept)
    onnx.save(model, target)


def _dequantise(
    quantised: NDArray[np.int8],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int8],
    axis: int,
    block_size: int,
) -> NDArray[np.float32]:
    length = quantised.shape[axis]

    def spread(blocks: NDArray) -> NDArray[np.float32]:
        repeated = np.repeat(blocks.astype(np.float32), block_size, axis=axis)
        return repeated.take(np.arange(length), axis=axis)

    return (quantised.astype(np.float32) - spread(zero_point)) * spread(scale)
