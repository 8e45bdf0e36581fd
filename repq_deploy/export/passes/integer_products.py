"""Products of quantized tensors in ONNX Runtime's integer kernel."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import (
    append,
    constant_of,
    is_constant,
    nodes_of,
    producer,
    replace_output,
    sole_reader,
)
from repq_deploy.export.passes.operands import weight_of

__all__ = ["IntegerProducts"]


class IntegerProducts(Pass):
    """``DQ(a) @ DQ(b)`` becomes ``com.microsoft.MatMulIntegerToFloat``: int32 sums, scaled and biased in one kernel.

    1. A bias [columns] added to the product, with no other reader in between, becomes the kernel's own.
    2. A product multiplied by one constant, as attention's logits are: the constant joins the scale of ``a``.

    Requires unsigned codes ``a`` with one scale (``UnsignedCodes``); ``b`` has one scale or one a column. Exact to
    float rounding: sums are whole numbers where the float product rounded each.
    """

    def call(self, graph: gs.Graph) -> int:
        return sum(_rewrite(graph, node) for node in nodes_of(graph, "MatMul"))


def _rewrite(graph: gs.Graph, product: gs.Node) -> bool:
    a, b = (producer(tensor, "DequantizeLinear") for tensor in product.inputs)
    if a is None or b is None or a.inputs[2].dtype != np.uint8 or constant_of(a.inputs[1]).size != 1:
        return False
    scale_b, weight = constant_of(b.inputs[1]), weight_of(product.inputs[1])
    if scale_b.size != 1 and (weight is None or weight.axis != 1):
        return False
    last, scale, bias = product, constant_of(a.inputs[1]), []
    reader = sole_reader(graph, product.outputs[0])
    if reader is not None and (other := _other_input(reader, product.outputs[0])) is not None:
        if reader.op == "Mul" and other.size == 1:
            last, scale = reader, np.asarray(scale * other.reshape(()), np.float32)
        elif reader.op == "Add" and weight is not None and other.shape == weight.stored[0].shape[-1:]:
            last, bias = reader, [other]
    y = append(
        graph,
        "MatMulIntegerToFloat",
        f"{product.name}/integer",
        [a.inputs[0], b.inputs[0], scale, scale_b, a.inputs[2], b.inputs[2], *bias],
        shape=product.outputs[0].shape,
        domain="com.microsoft",
    )
    replace_output(last, y, graph)
    return True


def _other_input(reader: gs.Node, tensor: gs.Tensor) -> np.ndarray | None:
    """The constant that ``reader`` combines with ``tensor``."""
    if reader.op not in ("Add", "Mul"):
        return None
    other = next((one for one in reader.inputs if one is not tensor), None)
    return constant_of(other) if other is not None and is_constant(other) else None
