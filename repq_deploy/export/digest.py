"""A digest of what a canonical file computes in integers: so that a file that was altered is not taken for ours.

It covers every quantizer's scale and zero point and every weight's codes, not the bytes of the file: tools that rename
or reorder nodes, or fold other constants, may touch it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx

from repq_deploy.export.domain import QUANTIZE_CURVE

__all__ = ["bad_scale", "quantizers_digest"]

#: Those whose second input is a scale.
_QUANTIZERS = (
    *("QuantizeLinear", "DequantizeLinear", "Log2QuantizeLinear", "Log2DequantizeLinear"),
    *QUANTIZE_CURVE.values(),
)
_OPERATORS = (*_QUANTIZERS, "TableDequantizeLinear")


def quantizers_digest(model: onnx.ModelProto) -> str:
    """The SHA-256 of all quantizers of ``model``, whatever their order and names."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    digests = sorted(_node_digest(node, constants) for node in model.graph.node if node.op_type in _OPERATORS)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def bad_scale(model: onnx.ModelProto) -> str | None:
    """The first quantizer whose scale is not finite and positive, and that scale; None where all are."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _QUANTIZERS and node.input[1] in constants:
            scale = onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1)
            bad = scale[~(np.isfinite(scale) & (scale > 0))]
            if bad.size:
                return f"{node.name}: {bad[0]}"
    return None


def _node_digest(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> str:
    digest = hashlib.sha256(node.op_type.encode())
    for attribute in sorted(node.attribute, key=lambda one: one.name):
        if attribute.name in ("bits", "steps_per_octave", "axis"):
            digest.update(f"{attribute.name}={attribute.i}".encode())
    for name in node.input:
        if name in constants:
            array = onnx.numpy_helper.to_array(constants[name])
            digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
