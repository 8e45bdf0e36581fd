"""Small helpers on graph-surgeon graphs that several passes share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["constant_of", "dequantize", "nodes_of", "replace_output"]


def nodes_of(graph: gs.Graph, op: str, domain: str = "") -> Iterator[gs.Node]:
    """The nodes of one operator, from a snapshot, so that the graph may change meanwhile."""
    for node in list(graph.nodes):
        if node.op == op and (node.domain or "") == domain:
            yield node


def constant_of(tensor: gs.Tensor) -> np.ndarray:
    """The values of a tensor that must be constant."""
    if not isinstance(tensor, gs.Constant):
        raise ValueError(f"tensor {tensor.name!r} is not a constant")
    return np.asarray(tensor.values)


def replace_output(node: gs.Node, replacement: gs.Tensor, graph: gs.Graph) -> None:
    """Let every reader of ``node``'s first output read ``replacement``; ``node`` then falls to the cleanup."""
    old = node.outputs[0]
    for reader in list(old.outputs):
        reader.inputs = [replacement if tensor is old else tensor for tensor in reader.inputs]
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
