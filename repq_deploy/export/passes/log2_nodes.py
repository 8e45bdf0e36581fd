"""Logarithmic quantizers become a quantize and a dequantize node of the domain ``repq``."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_LOG2, DOMAIN, QUANTIZE_LOG2
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import constant_of, nodes_of, replace_output

__all__ = ["Log2Nodes"]


class Log2Nodes(Pass):
    """``FakeQuantizeLog2(x)`` becomes ``Log2QuantizeLinear -> Log2DequantizeLinear``; codes are uint8.

    Exact: the functions' bodies are the arithmetic of ``repq_deploy.quant.ops``, save for ties of the logarithm.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for node in nodes_of(graph, "FakeQuantizeLog2", DOMAIN):
            x, scale = node.inputs
            site = node.attrs["site"]
            attributes = {name: node.attrs[name] for name in ("bits", "steps_per_octave")}
            scale = gs.Constant(f"{site}/scale", constant_of(scale))
            codes = gs.Variable(f"{site}/codes", dtype=np.uint8, shape=x.shape)
            values = gs.Variable(f"{site}/values", dtype=np.float32, shape=x.shape)
            for op, suffix, source, target in (
                (QUANTIZE_LOG2, "quantize", x, codes),
                (DEQUANTIZE_LOG2, "dequantize", codes, values),
            ):
                graph.nodes.append(
                    gs.Node(op, f"{site}/{suffix}", dict(attributes), [source, scale], [target], domain=DOMAIN)
                )
            replace_output(node, values, graph)
            changed += 1
        return changed
