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

    Fires where the scale is one number, q, k and v have as many heads, and there is no bias or mask, so not for Swin.
    Exact to float rounding.
    """

    def call(self, graph: gs.Graph) -> int:
        return sum(_fuse(graph, node) for node in nodes_of(graph, "Softmax"))


def _fuse(graph: gs.Graph, softmax: gs.Node) -> bool:
    scaled, logits = _logits(softmax)
    product = sole_reader(graph, softmax.outputs[0])
    if scaled is None or logits is None or product is None or product.op != "MatMul":
        return False
    if product.inputs[0] is not softmax.outputs[0]:
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
    if any(one.shape[1:] != reshape.outputs[0].shape[1:] for one in rows):  # type: ignore[union-attr]
        return False
    attributes = {"num_heads": int(softmax.inputs[0].shape[1]), "scale": constant_of(scaled.inputs[1]).item()}
    name = softmax.name + "/attention"
    shape = reshape.outputs[0].shape
    y = append(graph, "MultiHeadAttention", name, rows, shape=shape, domain="com.microsoft", **attributes)
    replace_output(reshape, y, graph)
    return True


def _logits(softmax: gs.Node) -> tuple[gs.Node | None, gs.Node | None]:
    """The Mul by one number above a softmax over the last axis, and the MatMul above that."""
    scaled = producer(softmax.inputs[0], "Mul")
    if scaled is None or not is_constant(scaled.inputs[1]) or constant_of(scaled.inputs[1]).size != 1:
        return None, None
    if softmax.attrs.get("axis", -1) not in (-1, 3):
        return None, None
    return scaled, producer(scaled.inputs[0], "MatMul")


def _rows(tensor: gs.Tensor, perm: list[int]) -> gs.Tensor | None:
    """What was [B, N, heads d] before a Reshape, and Transposes that amount to ``perm``, made ``tensor`` of it."""
    found = [0, 1, 2, 3]
    while (transpose := producer(tensor, "Transpose")) is not None:
        if len(transpose.attrs["perm"]) != len(perm):
            return None
        found = [transpose.attrs["perm"][axis] for axis in found]
        tensor = transpose.inputs[0]
    reshape = producer(tensor, "Reshape")
    if found != perm or reshape is None or len(reshape.inputs[0].shape or ()) != 3:
        return None
    return reshape.inputs[0]
