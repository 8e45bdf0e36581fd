"""The table of a canonical file: what each quantizer stores, read from the graph alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DOMAIN, QUANTIZE_CURVE, QUANTIZE_LOG2, without_functions
from repq_deploy.export.passes.graph import site_of
from repq_deploy.export.passes.operands import Weight, code_range, weight_of

__all__ = ["SiteRow", "site_table"]


@dataclass(frozen=True)
class SiteRow:
    """One quantizer.

    ``kind`` is weight, activation, log2, log-sqrt2 or a curve (adalog, tan); of logarithms and curves ``codes`` are
    uint8 and ``scale`` is the largest value. ``codes`` are (smallest, largest), and ``bits`` is what they need.
    ``scale`` is (smallest, largest) over ``channels``, which is 1 where the tensor has one scale. ``shape`` has names
    for dynamic sizes; ``stored`` is the ONNX type of the codes.
    """

    name: str
    kind: str
    bits: int
    codes: tuple[int, int]
    scale: tuple[float, float]
    channels: int
    zero_point: int
    shape: tuple[int | str, ...]
    stored: str


def site_table(model: onnx.ModelProto) -> list[SiteRow]:
    """The quantizers of a canonical model, in the order in which the model computes; a weight follows its input."""
    graph = gs.import_onnx(without_functions(model))
    rows: list[SiteRow] = []
    weights: dict[str, SiteRow] = {}
    for node in graph.nodes:
        if node.op == QUANTIZE_LOG2 and node.domain == DOMAIN:
            kind = "log2" if node.attrs["steps_per_octave"] == 1 else "log-sqrt2"
            rows.append(_non_uniform(node, kind))
        elif node.op in QUANTIZE_CURVE.values() and node.domain == DOMAIN:
            rows.append(_non_uniform(node, node.attrs["curve"]))
        elif node.op == "QuantizeLinear":
            rows.append(_activation(node))
        elif (weight := weight_of(node.outputs[0])) is not None:
            row = _weight(weight)
            weights[row.name.removesuffix(".weight")] = row
    ordered: list[SiteRow] = []
    for row in rows:
        ordered.append(row)
        if (of_input := weights.pop(row.name.removesuffix(".input"), None)) is not None:
            ordered.append(of_input)
    return ordered + list(weights.values())


def _non_uniform(node: gs.Node, kind: str) -> SiteRow:
    # A logarithm's second input is its largest value; a curve's values stand in the table that its reader has.
    largest = node.inputs[1] if node.op == QUANTIZE_LOG2 else node.outputs[0].outputs[0].inputs[1]
    bits, scale = node.attrs["bits"], float(largest.values.max())
    name = site_of(node)
    return SiteRow(name, kind, bits, (0, 2**bits - 1), (scale, scale), 1, 0, _shape(node.outputs[0]), "UINT8")


def _activation(node: gs.Node) -> SiteRow:
    scale, zero_point = np.asarray(node.inputs[1].values), int(np.asarray(node.inputs[2].values).flat[0])
    codes = code_range(node)
    bits = math.ceil(math.log2(codes[1] - codes[0] + 1))
    return SiteRow(
        site_of(node), "activation", bits, codes, *_scale(scale), zero_point, _shape(node.outputs[0]), "INT8"
    )


def _weight(weight: Weight) -> SiteRow:
    values, scale, zero_point = weight.stored
    low, high = int(values.astype(np.int32).min()), int(values.astype(np.int32).max())
    bits = max(math.ceil(math.log2(max(-low, high + 1, 1))) + 1, 2)
    stored = onnx.TensorProto.DataType.Name(onnx.helper.np_dtype_to_tensor_dtype(values.dtype))
    zero = int(zero_point.astype(np.int32).flat[0])
    return SiteRow(weight.site, "weight", bits, (low, high), *_scale(scale), zero, tuple(values.shape), stored)


def _scale(scale: np.ndarray) -> tuple[tuple[float, float], int]:
    return (float(scale.min()), float(scale.max())), int(scale.size)


def _shape(tensor: gs.Tensor) -> tuple[int | str, ...]:
    return tuple(tensor.shape) if tensor.shape is not None else ()
