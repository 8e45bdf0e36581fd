"""A patch embedding's convolution becomes a product of patches and weights."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import (
    append,
    constant_of,
    is_constant,
    nodes_of,
    producer,
    replace_output,
    site_of,
    sole_reader,
)
from repq_deploy.export.passes.operands import weight_of

__all__ = ["PatchProduct"]


class PatchProduct(Pass):
    """``DQ(codes [B, C, H, W]) -> Conv -> tokens last`` becomes ``DQ(patches of codes [B, h w, C k k]) W + b``.

    Patches do not overlap (stride equal to kernel, no padding), so cutting them out is a Transpose of the codes, and
    the integer kernels for products, which give floats, serve; those for convolutions give codes only.

    Fires where the weight is a DequantizeLinear of constants and the output only goes on with channels last:
    ``Reshape [B, O, h w] -> Transpose`` (ViT) or ``Transpose`` (Swin). Exact to float summation.
    """

    def call(self, graph: gs.Graph) -> int:
        return sum(_rewrite(graph, node) for node in nodes_of(graph, "Conv"))


def _rewrite(graph: gs.Graph, conv: gs.Node) -> bool:
    image, weight = producer(conv.inputs[0], "DequantizeLinear"), weight_of(conv.inputs[1])
    kernel = list(conv.attrs.get("kernel_shape", ()))
    plain = conv.attrs.get("strides") == kernel and not any(conv.attrs.get("pads", ())) and conv.attrs["group"] == 1
    if image is None or image.inputs[0].shape is None or weight is None or not plain:
        return False
    batch, channels, height, width = image.inputs[0].shape
    rows, columns = height // kernel[0], width // kernel[1]
    target, shape = _tokens(graph, conv, rows, columns)
    if target is None or height % kernel[0] or width % kernel[1]:
        return False
    codes, scale, zero_point = weight.stored
    outputs, site = codes.shape[0], site_of(image)
    cut = np.array([-1, channels, rows, kernel[0], columns, kernel[1]], np.int64)
    flat = np.array([-1, rows * columns, codes[0].size], np.int64)
    kind = image.inputs[0].dtype
    x = append(graph, "Reshape", f"{site}/cut", [image.inputs[0], cut], dtype=kind, shape=[batch, *cut[1:].tolist()])
    turned = [batch, rows, columns, channels, *kernel]
    x = append(graph, "Transpose", f"{site}/patches", [x], dtype=kind, shape=turned, perm=[0, 2, 4, 1, 3, 5])
    x = append(graph, "Reshape", f"{site}/rows", [x, flat], dtype=kind, shape=[batch, *flat[1:].tolist()])
    x = append(graph, "DequantizeLinear", f"{site}/patch_values", [x, *image.inputs[1:]], shape=x.shape)
    matrix = np.ascontiguousarray(codes.reshape(outputs, -1).T)
    name = weight.site
    w = append(graph, "DequantizeLinear", f"{name}/matrix", [matrix, scale, zero_point], shape=matrix.shape, axis=1)
    tokens = [batch, rows * columns, outputs]
    y = append(graph, "MatMul", f"{name}/product", [x, w], shape=tokens)
    if len(conv.inputs) > 2:
        y = append(graph, "Add", f"{name}/bias", [y, constant_of(conv.inputs[2])], shape=tokens)
    if shape is not None:
        y = append(
            graph,
            "Reshape",
            f"{name}/grid",
            [y, np.array([-1, *shape, outputs], np.int64)],
            shape=[batch, *shape, outputs],
        )
    replace_output(target, y, graph)
    return True


def _tokens(graph: gs.Graph, conv: gs.Node, rows: int, columns: int) -> tuple[gs.Node | None, list[int] | None]:
    """The node that puts channels last, and the grid of tokens where it keeps one."""
    reader = sole_reader(graph, conv.outputs[0])
    if reader is None:
        return None, None
    if reader.op == "Transpose" and reader.attrs["perm"] == [0, 2, 3, 1]:
        return reader, [rows, columns]
    flattens = reader.op == "Reshape" and is_constant(reader.inputs[1]) and len(reader.inputs[1].values) == 3
    last = sole_reader(graph, reader.outputs[0]) if flattens else None
    if last is not None and last.op == "Transpose" and last.attrs["perm"] == [0, 2, 1]:
        return last, None
    return None, None
