"""Logarithmic quantization of a softmax from its logarithm."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_LOG2, DOMAIN, QUANTIZE_LOG2
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import (
    append,
    constant_of,
    nodes_of,
    producer,
    replace_output,
    site_of,
    sole_reader,
)

__all__ = ["Log2ByLogSoftmax"]

#: Powers below this are zero beside any other probability of a row.
_NOTHING = 1e-30


class Log2ByLogSoftmax(Pass):
    """``Softmax -> Log2QuantizeLinear -> Log2DequantizeLinear -> @ v`` without a logarithm of the attention matrix.

    The logarithm of a softmax is a subtraction, ``l = LogSoftmax(x)``, and its code is ``l - ln(scale)`` quantized
    uniformly, with the step ``ln 2 / steps_per_octave`` and 255 for code 0::

        [Sub] -> QuantizeLinear (uint8) -> DequantizeLinear -> Exp -> ThresholdedRelu

    UINT8 saturates where code 0 ends, ThresholdedRelu zeroes the last code and what lies beyond, and the scale, which
    multiplies every probability, joins that of v.

    Fires where v is a dequantized tensor with one scale. Exact, save for ties of the logarithm and rounding of Exp.
    """

    def call(self, graph: gs.Graph) -> int:
        return sum(_rewrite(graph, node) for node in nodes_of(graph, QUANTIZE_LOG2, DOMAIN))


def _rewrite(graph: gs.Graph, quantize: gs.Node) -> bool:
    x, scale = quantize.inputs[0], float(constant_of(quantize.inputs[1]))
    softmax = producer(x, "Softmax")
    dequantize = sole_reader(graph, quantize.outputs[0])
    if softmax is None or sole_reader(graph, x) is not quantize or dequantize is None:
        return False
    product = sole_reader(graph, dequantize.outputs[0])
    if dequantize.op != DEQUANTIZE_LOG2 or product is None or product.op != "MatMul":
        return False
    values = producer(product.inputs[1], "DequantizeLinear")
    if (
        values is None
        or sole_reader(graph, values.outputs[0]) is not product
        or constant_of(values.inputs[1]).size != 1
    ):
        return False
    steps, last = quantize.attrs["steps_per_octave"], 2 ** quantize.attrs["bits"] - 1
    name = site_of(quantize)
    step, zero = np.array(math.log(2) / steps, np.float32), np.array(255, np.uint8)
    y = append(graph, "LogSoftmax", f"{name}/log", [softmax.inputs[0]], shape=x.shape, axis=softmax.attrs["axis"])
    if scale != 1:
        y = append(graph, "Sub", f"{name}/relative", [y, np.array(math.log(scale), np.float32)], shape=x.shape)
    y = append(graph, "QuantizeLinear", f"{name}/quantize", [y, step, zero], dtype=np.uint8, shape=x.shape)
    y = append(graph, "DequantizeLinear", f"{name}/dequantize", [y, step, zero], shape=x.shape)
    y = append(graph, "Exp", f"{name}/power", [y], shape=x.shape)
    if 2.0 ** (-last / steps) > _NOTHING:
        smallest = 2.0 ** (-(last - 0.5) / steps)
        y = append(graph, "ThresholdedRelu", f"{name}/values", [y], shape=x.shape, alpha=smallest)
    joined = np.asarray(constant_of(values.inputs[1]) * scale, np.float32)
    values.inputs[1] = gs.Constant(f"{values.name}/joined_scale", joined)
    replace_output(dequantize, y, graph)
    return True
