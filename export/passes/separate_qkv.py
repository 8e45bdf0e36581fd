"""One product for q, k and v each, in place of one product that is taken apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import constant_of, nodes_of, replace_output

__all__ = ["SeparateQKV"]


class SeparateQKV(Pass):
    """``MatMul -> Add -> Reshape -> Transpose -> 3 x (Slice -> Squeeze)`` becomes ``3 x (MatMul -> Add -> Reshape ->
    Transpose)``: weight codes, scales and bias are cut into three.

    1. The permutation [2, 0, 3, 1, 4] of [B, N, 3, heads, size] leaves [B, heads, N, size] of each; a Transpose of the
       last two axes behind it (k's) is taken into it.
    2. The quantizer of each then stands behind its own product, and nothing is copied to take them apart.

    A projection of another shape is left as it is. Exact: the same products, column by column.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for product in nodes_of(graph, "MatMul"):
            found = _match(product)
            if found is not None:
                for index, node in found.parts.items():
                    _emit(graph, found, index, node)
                changed += 1
        return changed


@dataclass(frozen=True)
class _Projection:
    """What was matched: the input, the weight's DequantizeLinear, the bias, [heads, size], and the three Squeezes."""

    x: gs.Tensor
    weight: gs.Node
    bias: np.ndarray | None
    heads: list[int]
    parts: dict[int, gs.Node]


def _only_reader(node: gs.Node, op: str) -> gs.Node | None:
    readers = node.outputs[0].outputs
    return readers[0] if len(readers) == 1 and readers[0].op == op else None


def _match(product: gs.Node) -> _Projection | None:
    weight = product.inputs[1].inputs[0] if product.inputs[1].inputs else None
    if weight is None or weight.op != "DequantizeLinear" or not isinstance(weight.inputs[0], gs.Constant):
        return None
    last, bias = product, None
    if (add := _only_reader(product, "Add")) is not None:
        constants = [tensor for tensor in add.inputs if isinstance(tensor, gs.Constant)]
        if len(constants) != 1 or constants[0].values.ndim != 1:
            return None
        last, bias = add, constant_of(constants[0])
    reshape = _only_reader(last, "Reshape")
    transpose = None if reshape is None else _only_reader(reshape, "Transpose")
    if reshape is None or transpose is None or list(transpose.attrs["perm"]) != [2, 0, 3, 1, 4]:
        return None
    shape, parts = list(reshape.outputs[0].shape or ()), _parts(transpose)
    if shape[2:3] != [3] or not all(isinstance(size, int) for size in shape[3:]) or parts is None:
        return None
    return _Projection(product.inputs[0], weight, bias, [int(size) for size in shape[3:]], parts)


def _parts(transpose: gs.Node) -> dict[int, gs.Node] | None:
    """The Squeeze of each of the three slices along the first axis, if that is all that reads ``transpose``."""
    parts = {}
    for cut in transpose.outputs[0].outputs:
        squeeze = _only_reader(cut, "Squeeze") if cut.op == "Slice" else None
        if squeeze is None or not all(isinstance(tensor, gs.Constant) for tensor in cut.inputs[1:]):
            return None
        start, end, axes = (constant_of(tensor).tolist() for tensor in cut.inputs[1:4])
        if axes == [0] and end == [start[0] + 1]:
            parts[start[0]] = squeeze
    return parts if sorted(parts) == [0, 1, 2] else None


def _emit(graph: gs.Graph, found: _Projection, index: int, squeeze: gs.Node) -> None:
    width = found.heads[0] * found.heads[1]
    columns = slice(index * width, (index + 1) * width)
    name = f"{found.weight.name.removesuffix('/dequantize')}/{'qkv'[index]}"
    codes, scale, zero_point = (constant_of(tensor) for tensor in found.weight.inputs)

    def constant(suffix: str, values: np.ndarray) -> gs.Constant:
        return gs.Constant(f"{name}/{suffix}", np.ascontiguousarray(values))

    def node(op: str, attributes: dict, *inputs: gs.Tensor, shape: list | None = None) -> gs.Variable:
        output = gs.Variable(f"{name}/{op.lower()}/output", np.float32, shape)
        graph.nodes.append(gs.Node(op, f"{name}/{op.lower()}", attributes, list(inputs), [output]))
        return output

    along = [scale[columns] if scale.ndim else scale, zero_point[columns] if zero_point.ndim else zero_point]
    weight = node(
        "DequantizeLinear",
        dict(found.weight.attrs),
        constant("codes", codes[:, columns]),
        constant("scale", along[0]),
        constant("zero_point", along[1]),
        shape=[codes.shape[0], width],
    )
    y = node("MatMul", {}, found.x, weight)
    if found.bias is not None:
        y = node("Add", {}, y, constant("bias", found.bias[columns]))
    y = node("Reshape", {}, y, constant("shape", np.array([0, -1, *found.heads])))
    behind = _only_reader(squeeze, "Transpose")
    if behind is not None and list(behind.attrs["perm"]) == [0, 1, 3, 2]:
        replace_output(behind, node("Transpose", {"perm": [0, 2, 3, 1]}, y, shape=behind.outputs[0].shape), graph)
    else:
        replace_output(squeeze, node("Transpose", {"perm": [0, 2, 1, 3]}, y, shape=squeeze.outputs[0].shape), graph)
