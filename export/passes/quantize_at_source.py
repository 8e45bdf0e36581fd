"""Quantize first, then move the data."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import nodes_of

__all__ = ["QuantizeAtSource"]

_MOVES = ("Reshape", "Transpose")


class QuantizeAtSource(Pass):
    """``Reshape | Transpose -> [Add(scalar)] -> [Clip] -> QuantizeLinear`` becomes ``[Add] -> [Clip] ->
    QuantizeLinear -> Reshape | Transpose``, up to the operator that computes the values.

    1. The integers that are moved are a quarter of the floats, and the runtime rounds where it computes: a product
       writes integers right away. DequantizeLinear stays before its reader.
    2. An Add of one number, as the shift of an input is, goes along.

    Requires one scale per tensor. Exact: moving data does not change it.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for quantize in nodes_of(graph, "QuantizeLinear"):
            if quantize.inputs[1].values.ndim:
                continue
            first = _first_of_quantizer(quantize)
            moves = []
            source = first.inputs[0]
            while source.inputs and source.inputs[0].op in _MOVES and len(source.outputs) == 1:
                moves.append(source.inputs[0])
                source = moves[-1].inputs[0]
            if moves:
                _exchange(first, quantize, moves)
                changed += 1
        return changed


def _first_of_quantizer(quantize: gs.Node) -> gs.Node:
    """The Add of a number, the Clip or the QuantizeLinear that the values to be quantized enter."""
    first = quantize
    for op in ("Clip", "Add"):
        producer = first.inputs[0].inputs[0] if first.inputs[0].inputs else None
        if producer is None or producer.op != op or len(first.inputs[0].outputs) != 1:
            continue
        others = producer.inputs[1:]
        if all(isinstance(tensor, gs.Constant) and tensor.values.size == 1 for tensor in others):
            first = producer
    return first


def _exchange(first: gs.Node, quantize: gs.Node, moves: list[gs.Node]) -> None:
    """``moves`` lead up from ``first``: the quantizer goes before the last of them."""
    source = moves[-1].inputs[0]
    moved = quantize.outputs[0]
    between = _between(first, quantize)
    for tensor in between:
        tensor.shape = source.shape
    early = gs.Variable(f"{moved.name}/early", moved.dtype, source.shape)
    first.inputs[0] = source
    quantize.outputs = [early]
    moves[-1].inputs[0] = early
    moves[0].outputs = [moved]
    for move in moves[1:]:
        move.outputs[0].dtype = moved.dtype


def _between(first: gs.Node, quantize: gs.Node) -> list[gs.Tensor]:
    """The tensors from ``first``'s output to ``quantize``'s input."""
    tensors, node = [], quantize
    while node is not first:
        tensors.append(node.inputs[0])
        node = node.inputs[0].inputs[0]
    return tensors
