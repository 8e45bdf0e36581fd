"""Everything float becomes float16, around the integers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.errors import BadInput
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.pixel_input import NORMALIZED

__all__ = ["ToHalf"]

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = np.finfo(np.float16).smallest_subnormal


class ToHalf(Pass):
    """Float32 tensors become float16, scales of Q/DQ included; inputs and outputs of the graph stay float32.

    1. Each float32 constant is rounded; one that float16 cannot hold is refused, naming it. A scale that would become
       0, which TensorRT refuses, becomes the smallest number above it, 6e-8: what it scales is next to nothing.
    2. A Cast stands behind each float32 graph input and before each float32 graph output. Bytes are normalized in
       float32, and the Cast stands behind that (``PixelInput``): images are rounded once, as float32 ones are.
    3. Cast nodes and attributes that produce float32 produce float16.

    TensorRT is strongly typed: an FP16 engine needs this graph. Requires no functions and no subgraphs. Tolerance:
    float16 rounding, 2^-11 relative an operation; codes flip where a rounded value crosses a tie.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        tensors = graph.tensors()
        given = [tensors[NORMALIZED]] if NORMALIZED in tensors else [t for t in graph.inputs if t.dtype == np.float32]
        normalizing = _nodes_above(given)
        boundary = {id(tensor) for tensor in [*graph.inputs, *graph.outputs, *given]}
        boundary |= {id(tensor) for node in normalizing for tensor in [*node.inputs, *node.outputs]}
        float32 = {id(node) for node in normalizing}
        # The sizes of a resize are float32 whatever it resizes.
        boundary |= {id(one) for node in graph.nodes if node.op == "Resize" for one in node.inputs[1:]}
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32 or id(tensor) in boundary:
                continue
            if isinstance(tensor, gs.Constant):
                values = np.asarray(tensor.values)
                sizes = np.abs(values[~np.isinf(values)])  # an infinity, as max pooling pads with, stays one
                if sizes.size and not sizes.max() <= _LARGEST:
                    largest = f"{sizes.max():.3g}"
                    raise BadInput(f"{name}: holds {largest}, fp16 ends at {_LARGEST:.0f}; use --precision fp32")
                half = values.astype(np.float16)
                tensor.values = np.where(values > 0, np.maximum(half, _SMALLEST), half) if _scales(tensor) else half
            else:
                tensor.dtype = np.float16
            changed += 1
        for node in graph.nodes:
            if node.attrs.get("to") == onnx.TensorProto.FLOAT and id(node) not in float32:
                node.attrs["to"] = onnx.TensorProto.FLOAT16
        for tensor in given:
            half = _read_within(tensor)
            graph.nodes.append(_cast(tensor, half, onnx.TensorProto.FLOAT16))
        for tensor in list(graph.outputs):
            if tensor.dtype == np.float32:
                half = _read_within(tensor)
                producer = tensor.inputs[0]
                producer.outputs = [half if o is tensor else o for o in producer.outputs]
                graph.nodes.append(_cast(half, tensor, onnx.TensorProto.FLOAT))
        return changed


def _nodes_above(tensors: list[gs.Tensor]) -> list[gs.Node]:
    """The nodes that ``tensors`` are computed by."""
    found: list[gs.Node] = []
    todo = list(tensors)
    while todo:
        for node in todo.pop().inputs:
            found.append(node)
            todo += node.inputs
    return found


def _scales(tensor: gs.Tensor) -> bool:
    readers = [node for node in tensor.outputs if node.op in ("QuantizeLinear", "DequantizeLinear")]
    return any(node.inputs[1] is tensor for node in readers)


def _read_within(tensor: gs.Tensor) -> gs.Variable:
    """The float16 form of an input or output; whatever reads the tensor within the graph reads it instead."""
    half = gs.Variable(f"{tensor.name}/half", np.float16, tensor.shape)
    for reader in list(tensor.outputs):
        reader.inputs = [half if i is tensor else i for i in reader.inputs]
    return half


def _cast(source: gs.Tensor, target: gs.Tensor, to: int) -> gs.Node:
    return gs.Node("Cast", f"{source.name}/cast", {"to": to}, [source], [target])
