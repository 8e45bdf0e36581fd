"""Products of bytes that could saturate, in a form of ONNX Runtime's that cannot."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.byte_products import along_moves, byte_products
from repq_deploy.export.passes.graph import constant_of, is_constant, sole_reader

__all__ = ["UnsaturatedProducts"]

_PRODUCT = "MatMulIntegerToFloat"
#: From signed to unsigned codes.
_OFFSET = 128


class UnsaturatedProducts(Pass):
    """``MatMulIntegerToFloat`` of unsigned by signed codes becomes one of unsigned by unsigned codes, where it could
    saturate on a CPU that sums in 16 bits.

    Two unsigned factors are widened to 16 bits before they are multiplied: exact on every CPU, and slower. The signed
    codes and their zero point become unsigned by adding 128 to both; where a QuantizeLinear makes the codes, it adds
    it, and what moves them moves bytes as before.

    Requires ``IntegerProducts``. Exact: the sums are the same whole numbers.
    """

    def call(self, graph: gs.Graph) -> int:
        saturating = [one.node for one in byte_products(graph) if one.saturates and one.node.op == _PRODUCT]
        for product in saturating:
            _to_unsigned(graph, product)
        return len(saturating)


def _to_unsigned(graph: gs.Graph, product: gs.Node) -> None:
    codes, zero_point = product.inputs[1], product.inputs[5]
    product.inputs[5] = gs.Constant(f"{product.name}/unsigned_zero_point", _shifted(constant_of(zero_point)))
    if is_constant(codes):
        product.inputs[1] = gs.Constant(f"{product.name}/unsigned", _shifted(constant_of(codes)))
        return
    nodes = along_moves(codes)
    for node in nodes:
        if sole_reader(graph, node.outputs[0]) is None:
            raise PassError(f"{product.name}: its codes, made by {nodes[-1].name}, have other readers too")
        node.outputs[0].dtype = np.uint8
    quantize = nodes[-1]
    zero = _shifted(constant_of(quantize.inputs[2]))
    quantize.inputs[2] = gs.Constant(f"{quantize.name}/unsigned_zero_point", zero)


def _shifted(codes: np.ndarray) -> np.ndarray:
    return np.asarray(codes.astype(np.int16) + _OFFSET).astype(np.uint8)
