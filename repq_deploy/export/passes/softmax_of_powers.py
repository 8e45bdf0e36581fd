"""Probabilities over their row's largest, divided by their sum behind the product, as the softmax that they are."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import append, is_constant, nodes_of, producer, replace_output
from repq_deploy.export.passes.operands import logits_of_powers

__all__ = ["SoftmaxOfPowers"]


class SoftmaxOfPowers(Pass):
    """``(p @ v) / ReduceSum(p)`` with ``p = exp(x - max x)`` becomes ``softmax(x) @ v``.

    So the float twin of a model with such probabilities is the float model, whose softmax every runtime has a kernel
    for. Fires where p is not quantized, over the last axis. Exact to float rounding.
    """

    def call(self, graph: gs.Graph) -> int:
        return sum(_rewrite(graph, node) for node in nodes_of(graph, "Div"))


def _rewrite(graph: gs.Graph, divide: gs.Node) -> bool:
    product, total = producer(divide.inputs[0], "MatMul"), producer(divide.inputs[1], "ReduceSum")
    if product is None or total is None or total.inputs[0] is not product.inputs[0]:
        return False
    logits = logits_of_powers(total.inputs[0])
    if logits is None or len(total.inputs) < 2 or not is_constant(total.inputs[1], [-1]):
        return False
    name = f"{product.name}/softmax"
    product.inputs[0] = append(graph, "Softmax", name, [logits], shape=logits.shape, axis=-1)
    replace_output(divide, product.outputs[0], graph)
    return True
