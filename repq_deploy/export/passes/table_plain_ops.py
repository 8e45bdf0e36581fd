"""Quantizers by table in the fewest standard operators, for runtimes without functions or uint8 tensors."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_TABLE, DOMAIN, QUANTIZE_ADALOG, QUANTIZE_TAN
from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.graph import Emitter, constant_of, nodes_of, replace_output

__all__ = ["TablePlainOps"]


class TablePlainOps(Pass):
    """``TanQuantizeLinear -> TableDequantizeLinear`` becomes Mul, Atan, Mul, Round, Clip, Cast, Gather; AdaLog alike.

    The constants in front of the rounding are multiplied into one, so a code may differ where it lies on a tie.

    Requires each quantizer to be read by its dequantizer alone.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for op in (QUANTIZE_TAN, QUANTIZE_ADALOG):
            for quantize in nodes_of(graph, op, DOMAIN):
                readers = quantize.outputs[0].outputs
                if len(readers) != 1 or readers[0].op != DEQUANTIZE_TABLE:
                    raise PassError(f"{quantize.name}: expected one {DEQUANTIZE_TABLE} to read it, not {len(readers)}")
                x = quantize.inputs[0]
                scale, shape = (float(constant_of(tensor)) for tensor in quantize.inputs[1:])
                last = 2 ** quantize.attrs["bits"] - 1
                emit = Emitter(graph, quantize.name.removesuffix("/quantize"), x)
                if op == QUANTIZE_TAN:
                    exact = emit("Mul", emit("Atan", emit("Mul", x, math.tan(shape) / scale)), last / shape)
                else:
                    exact = emit("Mul", emit("Log", emit("Div", x, scale)), -shape / math.log(2))
                codes = emit("Clip", emit("Round", exact), 0.0, float(last))
                codes.name = f"{emit.site}/float_codes"
                indices = emit("Cast", codes, dtype=np.int32, to=onnx.TensorProto.INT32)
                table = gs.Constant(f"{quantize.name}/table", constant_of(readers[0].inputs[1]))
                replace_output(readers[0], emit("Gather", table, indices), graph)
                changed += 1
        return changed
