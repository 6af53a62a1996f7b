"""ONNX plumbing shared by the face networks: sessions, rows shared out among threads, rewriting."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = [
    "RowSession",
    "fold_int8_weights",
    "onnx_session",
    "session_options",
    "split_prelus",
]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options of a session that uses `threads` threads within an operator and one across them.

    Spinning is off: idle threads of many actors on one machine would steal each other's cores.

    Raises:
        ValueError: `threads` is less than 1 (0 would mean "all cores" to onnxruntime).
    """
    _check_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise ValueError(f"threads is {threads}, allowed: 1 or more")


def onnx_session(
    path: Path, *, providers: Sequence[str] | None = None, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A session of so many threads over the file, on the CPU unless `providers` says otherwise.

    Raises:
        ValueError: a provider that this onnxruntime does not have.
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


class RowSession:
    """A network with one input and one output over batches, whose rows threads share out.

    Each thread runs the whole network on its rows: to divide every operator of networks this small
    among threads costs more waiting than it saves (docs/metrics.md).

    Args:
        path: ONNX file.
        threads: that run at once, on the CPU.
        providers: see `onnx_session`; with another than the CPU's one call takes all rows.
        rows: in one call of the network; two faces' feature maps stay in a core's caches.

    Raises:
        ValueError: a provider that this onnxruntime does not have, or threads < 1.
    """

    def __init__(
        self, path: Path, *, threads: int = 1, providers: Sequence[str] | None = None, rows: int = 2
    ) -> None:
        _check_threads(threads)
        self._session = onnx_session(path, providers=providers)
        (self._input,) = (given.name for given in self._session.get_inputs())
        on_cpu = self._session.get_providers()[0] == "CPUExecutionProvider"
        self._rows = rows if on_cpu else None
        self._pool = ThreadPoolExecutor(threads, "onnx")

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's output of N rows, N >= 1."""
        calls = -(-len(batch) // (self._rows or len(batch)))
        return np.concatenate(list(self._pool.map(self._run, np.array_split(batch, calls))))

    def _run(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        (output,) = self._session.run(None, {self._input: part})
        return np.asarray(output)


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


def split_prelus(source: Path, target: Path) -> None:
    """Writes `source` with each `PRelu(x) = a x + (1 - a) max(x, 0)` as just that sum.

    On a CPU onnxruntime keeps convolutions, sums and normalisations in a blocked layout of its own,
    and leaves it for every PRelu: half of SFace's time. The scales `a` and `1 - a` of the channels
    are written as normalisations that do nothing else.

    Args:
        source: ONNX file whose `PRelu` nodes have one constant slope a channel.
        target: file to write.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []

    def scaled(given: str, name: str, scale: NDArray[np.float32]) -> str:
        zeros, ones = np.zeros_like(scale), np.ones_like(scale)
        names = []
        for part, values in (("scale", scale), ("b", zeros), ("mean", zeros), ("var", ones)):
            names.append(f"{name}_{part}")
            graph.initializer.append(numpy_helper.from_array(values, names[-1]))
        inputs = [given, *names]
        nodes.append(helper.make_node("BatchNormalization", inputs, [name], epsilon=0.0))
        return name

    for node in graph.node:
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        (given, slope), name = node.input, node.output[0]
        slopes = numpy_helper.to_array(constants[slope]).astype(np.float32).reshape(-1)
        nodes.append(helper.make_node("Relu", [given], [f"{name}_positive"]))
        parts = [
            scaled(f"{name}_positive", f"{name}_rest", 1 - slopes),
            scaled(given, f"{name}_all", slopes),
        ]
        nodes.append(helper.make_node("Add", parts, [name]))
    del graph.node[:]
    graph.node.extend(nodes)
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
