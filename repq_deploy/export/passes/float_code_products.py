"""Products that runtimes would compute in integers, and wrongly, as products of whole numbers in float."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.byte_products import along_moves, byte_products
from repq_deploy.export.passes.graph import append, constant_of, nodes_of, producer, replace_output, site_of
from repq_deploy.export.passes.operands import clip_of, code_range, weight_of

__all__ = ["FloatCodeProducts", "is_weight_only"]


class FloatCodeProducts(Pass):
    """``DQ(a) @ DQ(b)`` becomes ``(float(a codes) @ float(b codes)) * scales [+ bias]``; ``MatMul`` and ``Conv`` alike.

    1. ``a`` is in float, as what a table gives, and ``b`` a weight: both runtimes would quantize ``a`` row by row on
       the way (ONNX Runtime's MatMulNBits, OpenVINO's compressed weights).
    2. Under ``sums_in_16_bits`` also where both are codes, and their product of bytes would saturate on a CPU that sums
       in 16 bits.

    The codes of activations are ``Clip(Round(x / scale))``, which no runtime takes for a quantizer; those of weights
    stay integers in the file. Exact: sums of whole numbers are right up to 2^24, and rounded beyond.
    """

    def __init__(self, *, sums_in_16_bits: bool) -> None:
        self.sums_in_16_bits = sums_in_16_bits

    def call(self, graph: gs.Graph) -> int:
        products = [node for node in nodes_of(graph, "MatMul") if is_weight_only(node)]
        if self.sums_in_16_bits:
            products += [
                one.node for one in byte_products(graph) if one.saturates and one.node.op in ("MatMul", "Conv")
            ]
        codes: dict[str, gs.Variable] = {}  # of activations that several products read
        for product in products:
            _rewrite(graph, product, codes)
        return len(products)

    def ensures(self, graph: gs.Graph) -> None:
        left = [one.node.name for one in byte_products(graph) if one.saturates and self.sums_in_16_bits]
        if left:
            raise PassError(f"{len(left)} products can saturate, first {left[0]}")


def is_weight_only(product: gs.Node) -> bool:
    """Whether a MatMul multiplies floats by a dequantized constant."""
    first, second = product.inputs
    return producer(first, "DequantizeLinear") is None and weight_of(second) is not None


def _rewrite(graph: gs.Graph, product: gs.Node, known: dict[str, gs.Variable]) -> None:
    y, name = product.outputs[0], product.name
    factors, scale = [], np.ones((), np.float32)
    # Channels of a convolution come second; those of a product last.
    per_channel = (-1, 1, 1) if product.op == "Conv" else (-1,)
    for tensor in product.inputs[:2]:
        dequantize = producer(tensor, "DequantizeLinear")
        factors.append(tensor if dequantize is None else _codes(graph, dequantize, known))
        if dequantize is not None:
            own = constant_of(dequantize.inputs[1])
            scale = np.asarray(scale * (own.reshape(per_channel) if own.ndim else own), np.float32)
    sums = append(graph, product.op, f"{name}/codes", factors, shape=y.shape, **product.attrs)
    scaled = append(graph, "Mul", f"{name}/scaled", [sums, scale], shape=y.shape)
    if len(product.inputs) > 2:
        bias = constant_of(product.inputs[2]).reshape(per_channel)
        scaled = append(graph, "Add", f"{name}/bias", [scaled, bias], shape=y.shape)
    replace_output(product, scaled, graph)


def _codes(graph: gs.Graph, dequantize: gs.Node, known: dict[str, gs.Variable]) -> gs.Variable:
    """The signed codes that ``dequantize`` reads as floats, called ``<site>/float_codes``."""
    codes, site = dequantize.inputs[0], site_of(dequantize)
    if site in known:
        return known[site]
    if constant_of(dequantize.inputs[2]).any():
        raise PassError(f"{dequantize.name}: expected a zero point of 0")
    if weight_of(dequantize.outputs[0]) is not None:
        y = append(graph, "Cast", f"{site}/cast", [codes], shape=codes.shape, to=int(onnx.TensorProto.FLOAT))
    else:
        *moves, quantize = along_moves(codes)
        if moves or quantize.op != "QuantizeLinear":
            raise PassError(f"{dequantize.name}: expected QuantizeLinear right before it")
        x, scale = quantize.inputs[:2]
        y = append(graph, "Div", f"{site}/steps", [x, scale], shape=x.shape)
        y = append(graph, "Round", f"{site}/round", [y], shape=x.shape)
        if clip_of(quantize) is None:
            bounds = [np.array(bound, np.float32) for bound in code_range(quantize)]
            y = append(graph, "Clip", f"{site}/saturate", [y, *bounds], shape=x.shape)
    y.name = f"{site}/float_codes"
    known[site] = y
    return y
