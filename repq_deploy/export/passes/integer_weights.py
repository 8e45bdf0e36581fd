"""Weights become integers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DOMAIN
from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.graph import constant_of, dequantize, nodes_of, replace_output

__all__ = ["IntegerWeights"]


class IntegerWeights(Pass):
    """``FakeQuantize(constant)`` becomes ``DequantizeLinear(integer constant)``, right before its reader.

    1. The signed codes ``clip(round(w / scale), -zero_point, 2^bits - 1 - zero_point)`` are stored with zero point 0,
       as INT4 where they all lie in [-8, 7], else as INT8.
    2. A Transpose between the quantizer and its reader is carried out on the codes, and the axis follows: runtimes
       fuse DequantizeLinear only with the product it feeds directly.

    Requires codes that fit INT8. Exact: each dequantized weight is the product ``scale * code`` that torch computed.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for node in nodes_of(graph, "FakeQuantize", DOMAIN):
            if not isinstance(node.inputs[0], gs.Constant):
                continue
            float_weight = node.inputs[0]
            weight, scale, zero_point = (constant_of(tensor) for tensor in node.inputs)
            site, bits, axis = node.attrs["site"], node.attrs["bits"], node.attrs["axis"]
            codes = weight_codes(weight, scale, zero_point, bits, axis)
            node.inputs.clear()
            if not float_weight.outputs:  # let go of, so that floats of one weight at a time are held
                float_weight.values = np.zeros(0, np.float32)
            if codes.min() < -128 or codes.max() > 127:
                raise PassError(f"{site}: codes {codes.min():.0f} to {codes.max():.0f} do not fit INT8")
            fits = codes.min() >= -8 and codes.max() <= 7
            integers = codes.astype(ml_dtypes.int4 if fits else np.int8)
            target = node
            readers = node.outputs[0].outputs
            if len(readers) == 1 and readers[0].op == "Transpose":
                target = readers[0]
                permutation = target.attrs["perm"]
                integers, axis = np.ascontiguousarray(integers.transpose(permutation)), permutation.index(axis)
            values = dequantize(
                graph,
                site,
                gs.Constant(f"{site}/codes", integers),
                gs.Constant(f"{site}/scale", scale),
                gs.Constant(f"{site}/zero_point", np.zeros(scale.shape, integers.dtype)),
                axis,
            )
            replace_output(target, values, graph)
            changed += 1
        return changed


def weight_codes(weight: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Signed codes of a weight, float32 of its shape, by the arithmetic of ``repq_deploy.quant.ops.uniform_codes``."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    zero_point = zero_point.reshape(shape)
    return np.clip(np.rint(weight / scale.reshape(shape)), -zero_point, 2**bits - 1 - zero_point)
