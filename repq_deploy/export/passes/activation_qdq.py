"""Activation quantizers become standard Q/DQ."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DOMAIN
from repq_deploy.export.passes.base import Pass, PassError
from repq_deploy.export.passes.graph import constant_of, dequantize, nodes_of, replace_output

__all__ = ["ActivationQDQ"]


class ActivationQDQ(Pass):
    """``FakeQuantize(x)`` becomes ``[Clip] -> QuantizeLinear -> DequantizeLinear``, INT8, zero point 0.

    1. Fewer than 8 bits: the signed codes run from ``-zero_point`` to ``2^bits - 1 - zero_point`` and fit INT8, so a
       float Clip to those multiples of the scale, then symmetric INT8, is the same quantizer with any zero point.
    2. 8 bits: the zero point must be 128; INT8 saturation is the clip.

    Requires one scale per tensor. Exact: the same integer codes, save where ``x / scale`` is a rounding tie.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for node in nodes_of(graph, "FakeQuantize", DOMAIN):
            if isinstance(node.inputs[0], gs.Constant):
                continue
            x = node.inputs[0]
            scale, zero_point = (constant_of(tensor) for tensor in node.inputs[1:])
            site, bits = node.attrs["site"], node.attrs["bits"]
            low, high = -zero_point, 2**bits - 1 - zero_point
            if scale.ndim or "axis" in node.attrs:
                raise PassError(f"{site}: expected one scale per tensor, found shape {scale.shape}")
            if low < -128 or high > 127:
                raise PassError(f"{site}: codes {low:.0f} to {high:.0f} do not fit INT8")
            if bits < 8:
                clipped = gs.Variable(f"{site}/clipped", dtype=np.float32, shape=x.shape)
                bounds = [
                    gs.Constant(f"{site}/{name}", np.array(scale * bound, np.float32))
                    for name, bound in (("low", low), ("high", high))
                ]
                graph.nodes.append(gs.Node("Clip", f"{site}/clip", {}, [x, *bounds], [clipped]))
                x = clipped
            codes = gs.Variable(f"{site}/codes", dtype=np.int8, shape=x.shape)
            scale_constant = gs.Constant(f"{site}/scale", scale)
            zero = gs.Constant(f"{site}/zero_point", np.array(0, np.int8))
            graph.nodes.append(gs.Node("QuantizeLinear", f"{site}/quantize", {}, [x, scale_constant, zero], [codes]))
            replace_output(node, dequantize(graph, site, codes, scale_constant, zero, None), graph)
            changed += 1
        return changed

    def ensures(self, graph: gs.Graph) -> None:
        left = [node.name for node in nodes_of(graph, "FakeQuantize", DOMAIN)]
        if left:
            raise PassError(f"{len(left)} quantizers were not replaced, first {left[0]}")
