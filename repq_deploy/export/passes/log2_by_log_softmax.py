"""Logarithmic quantization of a softmax, or of a power of e, from its logarithm."""

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
from repq_deploy.export.passes.operands import exponent_of

__all__ = ["Log2ByLogSoftmax"]

#: Powers below this are zero beside any other probability of a row.
_NOTHING = 1e-30


class Log2ByLogSoftmax(Pass):
    """``Softmax -> Log2QuantizeLinear -> Log2DequantizeLinear -> @ v`` without a logarithm of the attention matrix.

    1. The logarithm of a softmax is a subtraction, ``l = LogSoftmax(x)``, and its code is ``l - ln(scale)`` quantized
       uniformly, with the step ``ln 2 / steps_per_octave`` and 255 for code 0::

           [Sub] -> QuantizeLinear (uint8) -> DequantizeLinear -> Exp -> ThresholdedRelu

       UINT8 saturates where code 0 ends, ThresholdedRelu zeroes the last code and what lies beyond, and the scale,
       which multiplies every probability, joins that of v.
    2. ``Exp(l) -> Log2QuantizeLinear -> Log2DequantizeLinear`` with the scale 1, as where probabilities are those over
       their row's largest: the same, whatever reads it, and nothing is left to compute for ``l``.

    The first fires where v is a dequantized tensor with one scale. Exact, save for ties of the logarithm and rounding
    of Exp.
    """

    def call(self, graph: gs.Graph) -> int:
        return sum(_rewrite(graph, node) for node in nodes_of(graph, QUANTIZE_LOG2, DOMAIN))


def _rewrite(graph: gs.Graph, quantize: gs.Node) -> bool:
    dequantize = sole_reader(graph, quantize.outputs[0])
    if dequantize is None or dequantize.op != DEQUANTIZE_LOG2:
        return False
    logarithm = exponent_of(quantize)
    if logarithm is None:
        logarithm = _log_softmax(graph, quantize, dequantize)
    if logarithm is None:
        return False
    replace_output(dequantize, _powers(graph, quantize, logarithm), graph)
    return True


def _log_softmax(graph: gs.Graph, quantize: gs.Node, dequantize: gs.Node) -> gs.Tensor | None:
    """Rule 1: the logarithm of a softmax over its scale, which v's takes up."""
    x, scale = quantize.inputs[0], float(constant_of(quantize.inputs[1]))
    softmax, product = producer(x, "Softmax"), sole_reader(graph, dequantize.outputs[0])
    if softmax is None or sole_reader(graph, x) is not quantize or product is None or product.op != "MatMul":
        return None
    values = producer(product.inputs[1], "DequantizeLinear")
    if (
        values is None
        or sole_reader(graph, values.outputs[0]) is not product
        or constant_of(values.inputs[1]).size != 1
    ):
        return None
    name = site_of(quantize)
    y = append(graph, "LogSoftmax", f"{name}/log", [softmax.inputs[0]], shape=x.shape, axis=softmax.attrs["axis"])
    if scale != 1:
        y = append(graph, "Sub", f"{name}/relative", [y, np.array(math.log(scale), np.float32)], shape=x.shape)
    joined = np.asarray(constant_of(values.inputs[1]) * scale, np.float32)
    values.inputs[1] = gs.Constant(f"{values.name}/joined_scale", joined)
    return y


def _powers(graph: gs.Graph, quantize: gs.Node, logarithm: gs.Tensor) -> gs.Tensor:
    """The values, without their scale, of the codes of a logarithm."""
    steps, last = quantize.attrs["steps_per_octave"], 2 ** quantize.attrs["bits"] - 1
    name, shape = site_of(quantize), quantize.inputs[0].shape
    step, zero = np.array(math.log(2) / steps, np.float32), np.array(255, np.uint8)
    y = append(graph, "QuantizeLinear", f"{name}/quantize", [logarithm, step, zero], dtype=np.uint8, shape=shape)
    y = append(graph, "DequantizeLinear", f"{name}/dequantize", [y, step, zero], shape=shape)
    y = append(graph, "Exp", f"{name}/power", [y], shape=shape)
    if 2.0 ** (-last / steps) > _NOTHING:
        smallest = 2.0 ** (-(last - 0.5) / steps)
        y = append(graph, "ThresholdedRelu", f"{name}/values", [y], shape=shape, alpha=smallest)
    return y
