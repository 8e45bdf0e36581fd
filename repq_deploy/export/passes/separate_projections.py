"""One projection to q, k and v becomes three."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import (
    append,
    constant_of,
    is_constant,
    nodes_of,
    producer,
    replace_output,
)
from repq_deploy.export.passes.operands import weight_of

__all__ = ["SeparateProjections"]

_HEADS_FIRST = [2, 0, 3, 1, 4]


class SeparateProjections(Pass):
    """``x W_qkv + b -> Reshape [B, N, 3, heads, d] -> Transpose -> three slices`` becomes three products.

    Each of q, k and v is ``x W_i + b_i -> Reshape [B, N, heads, d] -> Transpose [B, heads, N, d]``, with the columns of
    the weight's codes, scales and bias that are its own: the same dot products, without copies to take them apart.

    Fires where the weight is a DequantizeLinear of constants along its columns. Exact.
    """

    def call(self, graph: gs.Graph) -> int:
        return sum(_separate(graph, node) for node in nodes_of(graph, "Transpose"))


def _separate(graph: gs.Graph, transpose: gs.Node) -> bool:
    reshape = producer(transpose.inputs[0], "Reshape")
    parts = _parts(transpose)
    if transpose.attrs.get("perm") != _HEADS_FIRST or reshape is None or len(parts) != 3:
        return False
    shape = constant_of(reshape.inputs[1])
    projected, bias = reshape.inputs[0], None
    if (add := producer(projected, "Add")) is not None and is_constant(add.inputs[1]):
        projected, bias = add.inputs[0], constant_of(add.inputs[1])
    product = producer(projected, "MatMul")
    weight = None if product is None else weight_of(product.inputs[1])
    if product is None or weight is None or weight.axis != 1 or shape[2] != 3:
        return False
    codes, scale, zero_point = weight.stored
    batch_shape = transpose.inputs[0].shape
    for part, (letter, node) in enumerate(zip("qkv", parts, strict=True)):
        width = codes.shape[1] // 3
        columns = slice(part * width, (part + 1) * width)
        name = f"{weight.site}.{letter}"
        arrays = [np.ascontiguousarray(array[..., columns]) for array in (codes, scale, zero_point)]
        values = append(graph, "DequantizeLinear", f"{name}/dequantize", arrays, shape=arrays[0].shape, axis=1)
        rows = [batch_shape[0], int(shape[1]), width]
        y = append(graph, "MatMul", f"{name}/product", [product.inputs[0], values], shape=rows)
        if bias is not None:
            y = append(graph, "Add", f"{name}/bias", [y, np.ascontiguousarray(bias[columns])], shape=rows)
        heads = [batch_shape[0], int(shape[1]), int(shape[3]), int(shape[4])]
        target = np.array([-1, *heads[1:]], np.int64)
        y = append(graph, "Reshape", f"{name}/heads", [y, target], shape=heads)
        turned = [heads[0], heads[2], heads[1], heads[3]]
        replace_output(
            node, append(graph, "Transpose", f"{name}/transpose", [y], shape=turned, perm=[0, 2, 1, 3]), graph
        )
    return True


def _parts(transpose: gs.Node) -> list[gs.Node]:
    """The Squeeze nodes that give q, k and v, in this order; empty where the transposed tensor is read otherwise."""
    found: dict[int, gs.Node] = {}
    for cut in transpose.outputs[0].outputs:
        if cut.op != "Slice" or len(cut.inputs) < 4 or not is_constant(cut.inputs[3], [0]):
            return []
        start, end = (constant_of(tensor).tolist() for tensor in cut.inputs[1:3])
        (squeeze,) = cut.outputs[0].outputs if len(cut.outputs[0].outputs) == 1 else (None,)
        if squeeze is None or squeeze.op != "Squeeze" or end != [start[0] + 1]:
            return []
        found[start[0]] = squeeze
    return [found[index] for index in sorted(found)] if sorted(found) == [0, 1, 2] else []
