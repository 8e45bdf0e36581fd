"""Quantized activations as floats, for products in float with integer weights."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.graph import Emitter, nodes_of, replace_output
from repq_deploy.export.passes.operands import Activation, operand, weight_of

__all__ = ["FloatActivations"]


class FloatActivations(Pass):
    """``QuantizeLinear -> DequantizeLinear`` becomes ``Div -> Round -> [Clip] -> Mul``: the same values, no integers.

    The Clip is INT8's saturation; where a Clip stands before the quantizer already, the codes need none. TensorRT then
    multiplies in float by weights that it keeps in 4 or 8 bits (weight-only). Requires one scale per tensor. Exact.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for dequantize in nodes_of(graph, "DequantizeLinear"):
            one = operand(dequantize.outputs[0])
            if not isinstance(one, Activation) or one.quantize.outputs[0] is not dequantize.inputs[0]:
                continue
            x, scale = one.quantize.inputs[:2]
            emit = Emitter(graph, f"{one.site}/float", x)
            codes = emit("Round", emit("Div", x, scale))
            if one.clip is None:
                codes = emit("Clip", codes, *map(float, one.codes))
            replace_output(dequantize, emit("Mul", codes, dequantize.inputs[1]), graph)
            changed += 1
        return changed

    def ensures(self, graph: gs.Graph) -> None:
        left = [n.name for n in nodes_of(graph, "DequantizeLinear") if weight_of(n.outputs[0]) is None]
        if left:
            raise PassError(f"{len(left)} activations are left in integers, first {left[0]}")
