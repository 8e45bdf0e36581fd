"""What x86 without VNNI makes of a product of unsigned by signed bytes, as standard operators: sums of two products
saturate at 16 bits. Runs on any CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass, run_passes
from repq_deploy.export.passes.graph import append, constant_of, is_constant, nodes_of, replace_output
from tests.export.passes.graphs import finish

__all__ = ["saturating"]


def saturating(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with each ``MatMulIntegerToFloat`` of unsigned codes by signed weights computed in 16 bits."""
    return finish(run_passes(model, [_Saturate()])[0])


class _Saturate(Pass):
    def call(self, graph: gs.Graph) -> int:
        return sum(_rewrite(graph, node) for node in nodes_of(graph, "MatMulIntegerToFloat", "com.microsoft"))


def _rewrite(graph: gs.Graph, product: gs.Node) -> bool:
    a, b, scale_a, scale_b, zero = product.inputs[:5]
    if not is_constant(b) or constant_of(b).dtype != np.int8:
        return False
    name, weights = f"{product.name}/16", constant_of(b).astype(np.float32)
    assert len(weights) % 2 == 0
    codes = append(graph, "Cast", f"{name}/cast", [a], to=onnx.TensorProto.FLOAT)
    rows = []
    for part in (0, 1):
        bounds = [np.array([bound]) for bound in (part, 2**31, -1, 2)]
        row = append(graph, "Slice", f"{name}/rows{part}", [codes, *bounds])
        row = append(graph, "Unsqueeze", f"{name}/column{part}", [row, np.array([-1])])
        rows.append(append(graph, "Mul", f"{name}/products{part}", [row, weights[part::2]]))
    pairs = append(graph, "Add", f"{name}/pairs", rows)
    limits = [np.array(bound, np.float32) for bound in (-(2**15), 2**15 - 1)]
    pairs = append(graph, "Clip", f"{name}/clip", [pairs, *limits])
    sums = append(graph, "ReduceSum", f"{name}/sums", [pairs, np.array([-2])], keepdims=0)
    correction = (weights.sum(0) * float(constant_of(zero))).astype(np.float32)
    sums = append(graph, "Sub", f"{name}/corrected", [sums, correction])
    scale = np.asarray(constant_of(scale_a) * constant_of(scale_b), np.float32)
    y = append(graph, "Mul", f"{name}/scaled", [sums, scale])
    if len(product.inputs) > 6:
        y = append(graph, "Add", f"{name}/bias", [y, product.inputs[6]])
    replace_output(product, y, graph)
    return True
