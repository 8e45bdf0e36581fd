"""Attention's scale goes from the logits into q's projection."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import constant_of, nodes_of, replace_output
from repq_deploy.export.passes.operands import weight_of

__all__ = ["AttentionScale"]


class AttentionScale(Pass):
    """``MatMul(q, k) -> Mul(c)`` becomes ``MatMul(c q, k)``, with ``c`` in the scales and the bias of q's projection.

    1. Between the projection and the product may stand Transpose, Reshape and q's quantizer: its bounds and its scale
       are multiplied, so its codes stay.
    2. Where something else stands between, the Mul moves before q's quantizer, where the tensor is smaller.

    Runtimes recognise attention by a product whose logits go straight to the softmax. Requires ``c`` > 0. Exact where
    ``c`` is a power of two, as for heads of 16 or 64; otherwise ties between two codes may fall the other way.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for multiply in nodes_of(graph, "Mul"):
            constants = [tensor for tensor in multiply.inputs if isinstance(tensor, gs.Constant)]
            if len(constants) != 1 or constants[0].values.size != 1 or constants[0].values.item() <= 0:
                continue
            (logits,) = (tensor for tensor in multiply.inputs if tensor is not constants[0])
            product = logits.inputs[0] if logits.inputs else None
            if product is None or product.op != "MatMul" or len(logits.outputs) != 1:
                continue
            if any(isinstance(tensor, gs.Constant) or not tensor.inputs for tensor in product.inputs):
                continue
            if _scale_left(graph, product, np.float32(constants[0].values.item())):
                replace_output(multiply, logits, graph)
                changed += 1
        return changed


def _scale_left(graph: gs.Graph, product: gs.Node, factor: np.float32) -> bool:
    """Multiply the product's first operand by ``factor``; False where it has other readers on the way."""
    scaled: list[tuple[gs.Node, int]] = []  # constants to multiply, as (node, index of its input)
    reader, tensor = product, product.inputs[0]
    while tensor.inputs and len(tensor.outputs) == 1:
        node = tensor.inputs[0]
        if node.op in ("DequantizeLinear", "QuantizeLinear", "Clip"):
            if isinstance(node.inputs[0], gs.Constant):
                break
            scaled.extend((node, index) for index in ((1,) if node.op != "Clip" else (1, 2)))
        elif node.op == "Add" and isinstance(node.inputs[1], gs.Constant):
            scaled.append((node, 1))
        elif node.op == "Add" and isinstance(node.inputs[0], gs.Constant):
            scaled.append((node, 0))
            reader, tensor = node, node.inputs[1]
            continue
        elif node.op == "MatMul" and (weight := weight_of(node.inputs[1])) and len(node.inputs[1].outputs) == 1:
            _multiply([*scaled, (weight.dequantize, 1)], factor)
            return True
        elif node.op not in ("Transpose", "Reshape"):
            break
        reader, tensor = node, node.inputs[0]
    if len(tensor.outputs) != 1:
        return False
    _multiply(scaled, factor)
    smaller = gs.Variable(f"{product.name}/scaled", tensor.dtype, tensor.shape)
    constant = gs.Constant(f"{product.name}/scale", np.array(factor))
    graph.nodes.append(gs.Node("Mul", f"{product.name}/scale_first", {}, [tensor, constant], [smaller]))
    reader.inputs = [smaller if entry is tensor else entry for entry in reader.inputs]
    return True


def _multiply(places: list[tuple[gs.Node, int]], factor: np.float32) -> None:
    for node, index in places:
        values = constant_of(node.inputs[index])
        name = f"{node.name}/scaled_{index}"
        node.inputs[index] = gs.Constant(name, np.asarray(values * factor, np.float32))
