"""Small helpers on graph-surgeon graphs that several passes share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

__all__ = [
    "MOVES",
    "Emitter",
    "append",
    "constant_of",
    "dequantize",
    "is_constant",
    "nodes_of",
    "producer",
    "replace_output",
    "site_of",
    "sole_reader",
]


#: Operators whose output is elements of their first input in another order.
MOVES = frozenset({"Gather", "Reshape", "Slice", "Squeeze", "Transpose"})


def nodes_of(graph: gs.Graph, op: str, domain: str = "") -> Iterator[gs.Node]:
    """The nodes of one operator, from a snapshot, so that the graph may change meanwhile."""
    for node in list(graph.nodes):
        if node.op == op and (node.domain or "") == domain:
            yield node


def site_of(node: gs.Node) -> str:
    """The site, a row of the quantizer table, that a quantizer or a dequantizer is named after."""
    return str(node.name).removesuffix("/quantize").removesuffix("/dequantize")


def constant_of(tensor: gs.Tensor) -> np.ndarray:
    """The values of a tensor that must be constant."""
    if not isinstance(tensor, gs.Constant):
        raise ValueError(f"tensor {tensor.name!r} is not a constant")
    return np.asarray(tensor.values)


def replace_output(node: gs.Node, replacement: gs.Tensor, graph: gs.Graph) -> None:
    """Let every reader of ``node``'s first output read ``replacement``; ``node`` then falls to the cleanup.

    An output of the graph keeps its name and shape.
    """
    old = node.outputs[0]
    for reader in list(old.outputs):
        reader.inputs = [replacement if tensor is old else tensor for tensor in reader.inputs]
    if any(tensor is old for tensor in graph.outputs):
        old.name, replacement.name = f"{old.name}/replaced", old.name
        replacement.shape = old.shape
    graph.outputs = [replacement if tensor is old else tensor for tensor in graph.outputs]
    node.outputs.clear()


def dequantize(
    graph: gs.Graph, site: str, codes: gs.Tensor, scale: gs.Constant, zero_point: gs.Constant, axis: int | None
) -> gs.Variable:
    """Append ``DequantizeLinear(codes)``; its output is named ``<site>/values``."""
    values = gs.Variable(f"{site}/values", dtype=np.float32, shape=codes.shape)
    attributes = {} if axis is None else {"axis": axis}
    node = gs.Node("DequantizeLinear", f"{site}/dequantize", attributes, [codes, scale, zero_point], [values])
    graph.nodes.append(node)
    return values


def producer(tensor: gs.Tensor, op: str) -> Any:
    """The node that computes ``tensor``, if it is one of ONNX's operator ``op``; else None."""
    for node in tensor.inputs:
        if node.op == op and not node.domain:
            return node
    return None


def sole_reader(graph: gs.Graph, tensor: gs.Tensor) -> Any:
    """The node that reads ``tensor``, if there is one only and the graph does not give it out; else None."""
    if len(tensor.outputs) != 1 or any(tensor is output for output in graph.outputs):
        return None
    return tensor.outputs[0]


def is_constant(tensor: gs.Tensor, values: npt.ArrayLike | None = None) -> bool:
    """Whether ``tensor`` is a constant, and holds ``values`` where they are given."""
    return isinstance(tensor, gs.Constant) and (values is None or np.array_equal(tensor.values, values))


def append(
    graph: gs.Graph,
    op: str,
    name: str,
    inputs: list[gs.Tensor | np.ndarray],
    *,
    dtype: object = np.float32,
    shape: object = None,
    domain: str | None = None,
    **attributes: object,
) -> gs.Variable:
    """Append a node called ``name``; arrays among ``inputs`` become constants. Its output is ``<name>/output``."""
    tensors = [
        gs.Constant(f"{name}/{index}", value) if isinstance(value, np.ndarray) else value
        for index, value in enumerate(inputs)
    ]
    output = gs.Variable(f"{name}/output", dtype=dtype, shape=shape)
    graph.nodes.append(gs.Node(op, name, dict(attributes), tensors, [output], domain=domain))
    return output


class Emitter:
    """Appends nodes named after one site, of the shape of ``like``; numbers become float32 scalars."""

    def __init__(self, graph: gs.Graph, site: str, like: gs.Tensor) -> None:
        self.graph, self.site, self.like, self.count = graph, site, like, 0

    def __call__(
        self,
        op: str,
        *inputs: gs.Tensor | np.ndarray | float,
        dtype: type = np.float32,
        shape: object = None,
        **attributes: Any,
    ) -> gs.Variable:
        self.count += 1
        name = f"{self.site}/{op.lower()}_{self.count}"
        tensors = [np.array(value, np.float32) if isinstance(value, float) else value for value in inputs]
        return append(self.graph, op, name, tensors, dtype=dtype, shape=shape or self.like.shape, **attributes)
