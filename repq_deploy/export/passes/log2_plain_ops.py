"""Logarithmic quantizers in the fewest standard operators, for runtimes without functions or uint8 tensors."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_LOG2, DOMAIN, QUANTIZE_LOG2
from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.graph import Emitter, constant_of, nodes_of, replace_output, site_of
from repq_deploy.export.passes.operands import exponent_of

__all__ = ["Log2PlainOps"]


class Log2PlainOps(Pass):
    """``Log2QuantizeLinear -> Log2DequantizeLinear`` becomes Div, Log, Mul, Round, Clip, Pow, Where, in float.

    What Exp computes, with the scale 1, needs neither Div nor Log: its exponent is the logarithm.

    The codes stay floats: they are whole numbers up to 255, exact in float32 and float16. The value of code q is taken
    as ``scale * 2^(-ceil(q / steps)) * (sqrt2 where q is odd)``, so that the power is exact.

    Requires each quantizer to be read by its dequantizer alone. Tolerance: none in float32 but ties of the logarithm.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for quantize in nodes_of(graph, QUANTIZE_LOG2, DOMAIN):
            readers = quantize.outputs[0].outputs
            if len(readers) != 1 or readers[0].op != DEQUANTIZE_LOG2:
                raise PassError(f"{quantize.name}: expected one {DEQUANTIZE_LOG2} as its reader, found {len(readers)}")
            x, scale = quantize.inputs
            steps, last = quantize.attrs["steps_per_octave"], 2 ** quantize.attrs["bits"] - 1
            emit = Emitter(graph, site_of(quantize), x)
            logarithm = exponent_of(quantize)
            if logarithm is None:
                logarithm = emit("Log", emit("Div", x, scale))
            exact = emit("Mul", logarithm, -steps / math.log(2))
            codes = emit("Clip", emit("Round", exact), 0.0, float(last))
            codes.name = f"{emit.site}/float_codes"
            if steps == 1:
                power = emit("Pow", 2.0, emit("Neg", codes))
            else:
                exponent = emit("Ceil", emit("Mul", codes, 1 / steps))
                odd = emit("Greater", emit("Mul", exponent, float(steps)), codes, dtype=np.bool_)
                root = 2 ** (1 / steps)
                power = emit("Mul", emit("Pow", 2.0, emit("Neg", exponent)), emit("Where", odd, root, 1.0))
            scaled = emit("Mul", power, float(constant_of(scale)))
            is_zero = emit("Equal", codes, float(last), dtype=np.bool_)
            replace_output(readers[0], emit("Where", is_zero, 0.0, scaled), graph)
            changed += 1
        return changed

    def ensures(self, graph: gs.Graph) -> None:
        left = [node.name for node in graph.nodes if node.domain == DOMAIN]
        if left:
            raise PassError(f"{len(left)} nodes of domain {DOMAIN} are left, first {left[0]}")
