"""Activation quantizers taken out."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_LOG2, DEQUANTIZE_TABLE, DOMAIN, QUANTIZE_CURVE, QUANTIZE_LOG2
from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.graph import nodes_of, producer, replace_output
from repq_deploy.export.passes.operands import clip_of, weight_of

__all__ = ["UnquantizedActivations"]

_QUANTIZERS = (("QuantizeLinear", ""), *((op, DOMAIN) for op in (QUANTIZE_LOG2, *QUANTIZE_CURVE.values())))
_DEQUANTIZERS = (("DequantizeLinear", ""), (DEQUANTIZE_LOG2, DOMAIN), (DEQUANTIZE_TABLE, DOMAIN))


class UnquantizedActivations(Pass):
    """``[Clip] -> quantize -> dequantize`` of a canonical graph becomes nothing: its readers read the float input.

    1. Uniform: ``QuantizeLinear -> DequantizeLinear``, with the Clip before it where that is the quantizer's own, which
       shows in bounds that are whole multiples of the scale. A Clip of the model, with other bounds, stays.
    2. Logarithms and curves: ``Log2QuantizeLinear``, ``LogQuantizeLinear`` or ``AtanQuantizeLinear`` with the node that
       dequantizes.

    Weights stay as they are. What is left computes what the model computes without rounding its activations: no
    tolerance to the canonical graph is kept, that being the point.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for op, domain in _DEQUANTIZERS:
            for node in nodes_of(graph, op, domain):
                quantize = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
                if quantize is None or (quantize.op, quantize.domain or "") not in _QUANTIZERS:
                    continue
                x = quantize.inputs[0]
                if op == "DequantizeLinear" and _is_own_clip(quantize):
                    x = producer(x, "Clip").inputs[0]
                _read_instead(node, x, graph)
                changed += 1
        return changed

    def ensures(self, graph: gs.Graph) -> None:
        left = [node.name for op, domain in _QUANTIZERS for node in nodes_of(graph, op, domain)]
        left += [
            node.name
            for op, domain in _DEQUANTIZERS
            for node in nodes_of(graph, op, domain)
            if weight_of(node.outputs[0]) is None
        ]
        if left:
            raise PassError(f"{len(left)} quantizers of activations are left, first {left[0]}")


def _is_own_clip(quantize: gs.Node) -> bool:
    clip = clip_of(quantize)
    if clip is None or len(clip.inputs) != 3:
        return False
    bounds = [tensor.values for tensor in clip.inputs[1:] if isinstance(tensor, gs.Constant)]
    steps = np.array(bounds, np.float64).ravel() / float(np.asarray(quantize.inputs[1].values).flat[0])
    return len(bounds) == 2 and bool(
        np.allclose(steps, np.rint(steps), rtol=0, atol=1e-3) and np.abs(steps).max() < 129
    )


def _read_instead(node: gs.Node, x: gs.Tensor, graph: gs.Graph) -> None:
    """Let the readers of ``node`` read ``x``; an output of the graph becomes a copy of ``x``, which keeps its name."""
    if any(tensor is node.outputs[0] for tensor in graph.outputs):
        copied = gs.Variable(f"{node.name}/unquantized", dtype=np.float32, shape=x.shape)
        graph.nodes.append(gs.Node("Identity", f"{node.name}/unquantized", {}, [x], [copied]))
        x = copied
    replace_output(node, x, graph)
