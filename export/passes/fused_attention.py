"""Attention in float as ONNX Runtime's one kernel."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import (
    append,
    constant_of,
    is_constant,
    nodes_of,
    producer,
    replace_output,
    sole_reader,
)

__all__ = ["FusedAttention"]


class FusedAttention(Pass):
    """``softmax(q k^T * scale) v`` in float becomes ``com.microsoft.MultiHeadAttention``, q, k and v [B, N, heads d].

    The kernel walks over blocks of rows, so the attention matrix is never written out, and it takes and gives the
    layout of the projections: their Reshapes and Transposes go.

    Fires without bias or mask only, so not for Swin. Exact to float
    rounding.
    """

    def call(self, graph: gs.Graph) -> int:
        return sum(_fuse(graph, node) for node in nodes_of(graph, "Softmax"))


def _fuse(graph: gs.Graph, softmax: gs.Node) -> bool:
    scaled = producer(softmax.inputs[0], "Mul")
    logits = None if scaled is None or not is_constant(scaled.inputs[1]) else producer(scaled.inputs[0], "MatMul")
    product = sole_reader(graph, softmax.outputs[0])
    if scaled is None or logits is None or product is None or product.op != "MatMul":
        return False
    rows = [
        _rows(logits.inputs[0], [0, 2, 1, 3]),
        _rows(logits.inputs[1], [0, 2, 3, 1]),
        _rows(product.inputs[1], [0, 2, 1, 3]),
    ]
    transpose = sole_reader(graph, product.outputs[0])
    reshape = None if transpose is None else sole_reader(graph, transpose.outputs[0])
    if transpose is None or transpose.attrs.get("perm") != [0, 2, 1, 3] or reshape is None or reshape.op != "Reshape":
        return False
    if any(one is None for one in rows) or None in (softmax.inputs[0].shape, reshape.outputs[0].shape):
        return False
    if reshape.outputs[0].shape[1:] != rows[0].shape[1:]:  # type: ignore[union-attr]
        return False
    attributes = {"num_heads": int(softmax.inputs[0].shape[1]), "scale": float(constant_of(scaled.inputs[1]))}
    name = softmax.name + "/attention"
    shape = reshape.outputs[0].shape
    y = append(graph, "MultiHeadAttention", name, rows, shape=shape, domain="com.microsoft", **attributes)
    replace_output(reshape, y, graph)
    return True


def _rows(tensor: gs.Tensor, perm: list[int]) -> gs.Tensor | None:
    """What was [B, N, heads d] before a Reshape, and Transposes that amount to ``perm``, made ``tensor`` of it."""
    found = [0, 1, 2, 3]
    while (transpose := producer(tensor, "Transpose")) is not None:
        found = [transpose.attrs["perm"][axis] for axis in found]
        tensor = transpose.inputs[0]
    reshape = producer(tensor, "Reshape")
    if found != perm or reshape is None or len(reshape.inputs[0].shape or ()) != 3:
        return None
    return reshape.inputs[0]
