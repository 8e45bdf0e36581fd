"""Quantizing before moving: bytes are moved, not floats."""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import MOVES, is_constant, nodes_of, sole_reader

__all__ = ["QuantizeBeforeMoves"]


class QuantizeBeforeMoves(Pass):
    """``Transpose -> [Add(number)] -> [Clip] -> QuantizeLinear`` becomes ``[Add] -> [Clip] -> QuantizeLinear ->
    Transpose``; so for Reshape etc.

    1. A quantizer with one scale changes places with each node above it that only moves elements, for it alone: the
       runtime rounds where it computes, and a product writes integers right away. DequantizeLinear stays before its
       reader.
    2. Two Transposes in a row become one.

    ``moves``: the operators to change places with. Exact.
    """

    def __init__(self, moves: Collection[str] = MOVES) -> None:
        self.moves = moves

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for quantize in nodes_of(graph, "QuantizeLinear"):
            if not is_constant(quantize.inputs[1]) or quantize.inputs[1].values.size != 1:
                continue
            while self._swap(graph, quantize):
                changed += 1
        for transpose in nodes_of(graph, "Transpose"):
            changed += _merge(graph, transpose)
        return changed

    def _swap(self, graph: gs.Graph, quantize: gs.Node) -> bool:
        along = _with_what_precedes(graph, quantize)
        first = along[-1]
        above = first.inputs[0].inputs
        if not above or above[0].op not in self.moves or sole_reader(graph, above[0].outputs[0]) is not first:
            return False
        move = above[0]
        codes = quantize.outputs[0]
        source, moved = move.inputs[0], move.outputs[0]
        first.inputs[0] = source
        for node in along[1:]:
            node.outputs[0].shape = source.shape
        early = gs.Variable(f"{moved.name}/early_codes", dtype=codes.dtype, shape=source.shape)
        move.outputs = [codes]
        quantize.outputs = [early]
        move.inputs[0] = early
        return True


def _with_what_precedes(graph: gs.Graph, quantize: gs.Node) -> list[gs.Node]:
    """The quantizer, then its Clip and its shift, from the last to the first that computes."""
    along = [quantize]
    for op in ("Clip", "Add"):
        above = along[-1].inputs[0].inputs
        if not above or above[0].op != op or sole_reader(graph, above[0].outputs[0]) is not along[-1]:
            continue
        if all(is_constant(tensor) and tensor.values.size == 1 for tensor in above[0].inputs[1:]):
            along.append(above[0])
    return along


def _merge(graph: gs.Graph, second: gs.Node) -> bool:
    above = second.inputs[0].inputs
    if not above or above[0].op != "Transpose" or sole_reader(graph, above[0].outputs[0]) is not second:
        return False
    first = above[0]
    second.attrs["perm"] = [first.attrs["perm"][axis] for axis in second.attrs["perm"]]
    second.inputs[0] = first.inputs[0]
    return True
