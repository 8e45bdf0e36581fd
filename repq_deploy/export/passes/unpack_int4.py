"""INT4 weights as INT8."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.graph import nodes_of

__all__ = ["UnpackInt4"]


class UnpackInt4(Pass):
    """``DequantizeLinear(INT4 constant)`` reads the same codes as INT8.

    ONNX Runtime and TensorRT multiply INT8 by INT8; an INT4 weight beside an INT8 activation they would compute in
    float. Exact.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for node in nodes_of(graph, "DequantizeLinear"):
            codes, _, zero_point = node.inputs
            if isinstance(codes, gs.Constant) and codes.dtype == ml_dtypes.int4:
                for tensor in (codes, zero_point):
                    tensor.values = np.asarray(tensor.values).astype(np.int8)
                changed += 1
        return changed

    def ensures(self, graph: gs.Graph) -> None:
        left = [name for name, tensor in graph.tensors().items() if tensor.dtype == ml_dtypes.int4]
        if left:
            raise PassError(f"{len(left)} INT4 tensors are left, first {left[0]}")
