"""Quantizers by table in the fewest standard operators, for runtimes without functions or uint8 tensors."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_TABLE, DOMAIN, QUANTIZE_CURVE
from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.graph import Emitter, constant_of, nodes_of, replace_output, site_of

__all__ = ["TablePlainOps"]


class TablePlainOps(Pass):
    """``LogQuantizeLinear -> TableDequantizeLinear`` becomes Div, Log, Mul, Round, Clip, Cast, Gather; Atan alike.

    Requires each quantizer to be read by its dequantizer alone.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for operator, name in QUANTIZE_CURVE.items():
            for quantize in nodes_of(graph, name, DOMAIN):
                readers = quantize.outputs[0].outputs
                if len(readers) != 1 or readers[0].op != DEQUANTIZE_TABLE:
                    raise PassError(f"{quantize.name}: expected one {DEQUANTIZE_TABLE} to read it, not {len(readers)}")
                x = quantize.inputs[0]
                divisor, factor = (float(constant_of(tensor)) for tensor in quantize.inputs[1:])
                last = 2 ** quantize.attrs["bits"] - 1
                emit = Emitter(graph, site_of(quantize), x)
                exact = emit("Mul", emit(operator, emit("Div", x, divisor)), factor)
                codes = emit("Clip", emit("Round", exact), 0.0, float(last))
                codes.name = f"{emit.site}/float_codes"
                indices = emit("Cast", codes, dtype=np.int32, to=onnx.TensorProto.INT32)
                table = gs.Constant(f"{quantize.name}/table", constant_of(readers[0].inputs[1]))
                replace_output(readers[0], emit("Gather", table, indices), graph)
                changed += 1
        return changed
