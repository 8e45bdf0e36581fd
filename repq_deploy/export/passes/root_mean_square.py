"""RMS norms in the form that ONNX Runtime knows."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import append, nodes_of, producer, replace_output, sole_reader

__all__ = ["RootMeanSquare"]


class RootMeanSquare(Pass):
    """``x * Reciprocal(Sqrt(y))``, as torch's exporter writes an RMS norm, becomes ``x / Sqrt(y)``.

    ONNX Runtime fuses a norm that divides into one kernel, and leaves the seven nodes of one that multiplies. Exact to
    float rounding.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for multiply in nodes_of(graph, "Mul"):
            for index, tensor in enumerate(multiply.inputs):
                reciprocal = producer(tensor, "Reciprocal")
                root = None if reciprocal is None else producer(reciprocal.inputs[0], "Sqrt")
                if root is None or sole_reader(graph, tensor) is not multiply:
                    continue
                y = [multiply.inputs[1 - index], root.outputs[0]]
                replace_output(
                    multiply, append(graph, "Div", f"{multiply.name}/div", y, shape=multiply.outputs[0].shape), graph
                )
                changed += 1
                break
        return changed
