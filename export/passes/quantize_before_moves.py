"""Quantizing before moving: bytes are moved, not floats."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import is_constant, nodes_of, sole_reader

__all__ = ["QuantizeBeforeMoves"]

#: Operators whose output is elements of their first input in another order.
_MOVES = frozenset({"Gather", "Reshape", "Slice", "Squeeze", "Transpose"})


class QuantizeBeforeMoves(Pass):
    """``Transpose -> [Clip] -> QuantizeLinear`` becomes ``[Clip] -> QuantizeLinear -> Transpose``; so for Reshape etc.

    1. A quantizer with one scale changes places with each node above it that only moves elements, for it alone.
    2. Two Transposes in a row become one.

    Exact.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for quantize in nodes_of(graph, "QuantizeLinear"):
            while is_constant(quantize.inputs[1]) and quantize.inputs[1].values.size == 1 and _swap(graph, quantize):
                changed += 1
        for transpose in nodes_of(graph, "Transpose"):
            changed += _merge(graph, transpose)
        return changed


def _swap(graph: gs.Graph, quantize: gs.Node) -> bool:
    first = quantize
    above = first.inputs[0].inputs
    if above and above[0].op == "Clip" and sole_reader(graph, above[0].outputs[0]) is quantize:
        first = above[0]
        above = first.inputs[0].inputs
    if not above or above[0].op not in _MOVES or sole_reader(graph, above[0].outputs[0]) is not first:
        return False
    move = above[0]
    codes = quantize.outputs[0]
    source, moved = move.inputs[0], move.outputs[0]
    first.inputs[0] = source
    if first is not quantize:
        first.outputs[0].shape = source.shape
    early = gs.Variable(f"{moved.name}/early_codes", dtype=codes.dtype, shape=source.shape)
    move.outputs = [codes]
    quantize.outputs = [early]
    move.inputs[0] = early
    return True


def _merge(graph: gs.Graph, second: gs.Node) -> bool:
    above = second.inputs[0].inputs
    if not above or above[0].op != "Transpose" or sole_reader(graph, above[0].outputs[0]) is not second:
        return False
    first = above[0]
    second.attrs["perm"] = [first.attrs["perm"][axis] for axis in second.attrs["perm"]]
    second.inputs[0] = first.inputs[0]
    return True
