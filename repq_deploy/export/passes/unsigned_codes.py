"""Activations of products as unsigned codes, with what is added to them in their zero point."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import constant_of, is_constant, nodes_of, producer, site_of, sole_reader
from repq_deploy.export.passes.operands import code_range

__all__ = ["UnsignedCodes"]


class UnsignedCodes(Pass):
    """``QuantizeLinear -> DequantizeLinear`` in INT8 becomes UINT8, where it is the first factor of a product.

    1. Codes from ``-z`` to ``2^bits - 1 - z`` (a Clip says so; without one they are 8 bits, z = 128) are stored plus z:
       x86 multiplies unsigned by signed bytes. Fewer than 8 bits stay small, so that sums of two products fit 16 bits.
    2. A number added right before the quantizer that is a multiple of its scale moves into its zero point: only
       DequantizeLinear still subtracts z.

    Exact, save for rounding ties in rule 2, where the sum was rounded before it was quantized.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for op in ("MatMul", "Conv"):
            for product in nodes_of(graph, op):
                if (pair := _quantized(graph, product.inputs[0])) is not None:
                    changed += _to_unsigned(graph, *pair)
        return changed


def _quantized(graph: gs.Graph, tensor: gs.Tensor) -> tuple[gs.Node, gs.Node] | None:
    """The signed quantizer and dequantizer that give ``tensor``, if nothing else reads the codes."""
    dequantize = producer(tensor, "DequantizeLinear")
    if dequantize is None:
        return None
    quantize = producer(dequantize.inputs[0], "QuantizeLinear")
    if quantize is None or sole_reader(graph, quantize.outputs[0]) is not dequantize:
        return None
    return (quantize, dequantize) if is_constant(quantize.inputs[2], np.zeros((), np.int8)) else None


def _to_unsigned(graph: gs.Graph, quantize: gs.Node, dequantize: gs.Node) -> bool:
    scale, stored = quantize.inputs[1], -code_range(quantize)[0]
    added = stored
    add = producer(quantize.inputs[0], "Add")
    shift = constant_of(add.inputs[1]) if add is not None and is_constant(add.inputs[1]) else np.empty(0)
    if shift.size == 1 and sole_reader(graph, add.outputs[0]) is quantize:
        steps = float(shift.item()) / float(constant_of(scale))
        if abs(steps - round(steps)) < 1e-3 and 0 <= stored + round(steps) <= 255:
            added += round(steps)
            quantize.inputs[0] = add.inputs[0]
    name = site_of(quantize)
    quantize.inputs[2] = gs.Constant(f"{name}/added_zero_point", np.array(added, np.uint8))
    dequantize.inputs[2] = gs.Constant(f"{name}/unsigned_zero_point", np.array(stored, np.uint8))
    quantize.outputs[0].dtype = np.uint8
    return True
