"""Quantizers whose values stand in a table become a quantize and a dequantize node of the domain ``repq``."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_TABLE, DOMAIN, QUANTIZE_CURVE
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import constant_of, nodes_of, replace_output

__all__ = ["TableNodes"]


class TableNodes(Pass):
    """``FakeQuantizeCurve(x)`` becomes ``LogQuantizeLinear`` (or Atan) ``-> TableDequantizeLinear``; codes are uint8.

    Exact, save for ties of the arc tangent and the logarithm.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for node in nodes_of(graph, "FakeQuantizeCurve", DOMAIN):
            x, *parameters = node.inputs
            site, quantize = node.attrs["site"], QUANTIZE_CURVE[node.attrs["function"]]
            divisor, factor, table = (
                gs.Constant(f"{site}/{name}", constant_of(tensor))
                for name, tensor in zip(("divisor", "factor", "table"), parameters, strict=True)
            )
            codes = gs.Variable(f"{site}/codes", dtype=np.uint8, shape=x.shape)
            values = gs.Variable(f"{site}/values", dtype=np.float32, shape=x.shape)
            attributes = {name: node.attrs[name] for name in ("bits", "curve")}
            graph.nodes += [
                gs.Node(quantize, f"{site}/quantize", attributes, [x, divisor, factor], [codes], domain=DOMAIN),
                gs.Node(DEQUANTIZE_TABLE, f"{site}/dequantize", {}, [codes, table], [values], domain=DOMAIN),
            ]
            replace_output(node, values, graph)
            changed += 1
        return changed
