"""Products of bytes, and whether a CPU that sums neighbouring products in 16 bits computes them right.

x86 without VNNI multiplies unsigned by signed bytes with VPMADDUBSW: the sum of two products saturates at 16 bits. ONNX
Runtime and OpenVINO both use it; x86 with VNNI, and ARM, sum in 32 bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.graph import MOVES, constant_of, is_constant, nodes_of, producer
from repq_deploy.export.passes.operands import clip_of, code_range

__all__ = ["ByteProduct", "Saturation", "along_moves", "byte_products", "saturation"]

_LIMITS = np.iinfo(np.int16)


@dataclass(frozen=True)
class ByteProduct:
    """A product of activations by weights, or by other activations.

    ``largest`` is the largest code of the first factor as an unsigned byte. ``pair`` is the smallest and the largest
    sum of two signed codes of one column of the second: any two, since kernels choose which rows they pair.
    ``multiplications`` is for one image; ``by_weights`` says whether the second factor is constant.
    """

    node: gs.Node
    largest: int
    pair: tuple[int, int]
    multiplications: int
    by_weights: bool

    @property
    def saturates(self) -> bool:
        """Whether the sum of two products can leave 16 bits."""
        return self.largest * self.pair[0] < _LIMITS.min or self.largest * self.pair[1] > _LIMITS.max


def byte_products(graph: gs.Graph) -> Iterator[ByteProduct]:
    """Every product whose second factor is signed: ``MatMulIntegerToFloat``, and ``MatMul`` or ``Conv`` of two
    dequantized tensors, which runtimes fuse to one."""
    for node in nodes_of(graph, "MatMulIntegerToFloat", "com.microsoft"):
        yield from _product(node, node.inputs[:2], node.inputs[4:6])
    for op in ("MatMul", "Conv"):
        for node in nodes_of(graph, op):
            factors = [producer(tensor, "DequantizeLinear") for tensor in node.inputs[:2]]
            if all(factor is not None for factor in factors):
                yield from _product(node, *([factor.inputs[index] for factor in factors] for index in (0, 2)))


@dataclass(frozen=True)
class Saturation:
    """What a CPU that sums in 16 bits would saturate: how many ``products``, and the share, 0 to 1, of the
    multiplications by weights that they hold."""

    products: int
    weight_share: float


def saturation(graph: gs.Graph) -> Saturation:
    """Count the products of ``graph`` that could saturate."""
    products = list(byte_products(graph))
    weights = sum(one.multiplications for one in products if one.by_weights)
    saturating = [one for one in products if one.saturates]
    share = (
        sum(one.multiplications for one in saturating if one.by_weights) / weights if saturating and weights else 0.0
    )
    return Saturation(len(saturating), share)


def along_moves(tensor: gs.Tensor) -> list[gs.Node]:
    """The nodes that move codes, from their reader up, and last the one that makes them."""
    nodes = [tensor.inputs[0]]
    while nodes[-1].op in MOVES:
        nodes.append(nodes[-1].inputs[0].inputs[0])
    return nodes


def _product(node: gs.Node, factors: Sequence[gs.Tensor], zero_points: Sequence[gs.Tensor]) -> Iterator[ByteProduct]:
    (first, second), (kind, kind_of_second) = factors, (zero.dtype for zero in zero_points)
    # Zero points are constants, so their types are always known; INT4 by anything fits.
    if kind_of_second != np.int8 or kind not in (np.int8, np.uint8):
        return
    # Signed codes are made unsigned by the runtime, which adds 128.
    largest = _codes(first, kind)[1] + (0 if kind == np.uint8 else 128)
    depth = (second.shape[1:] if node.op == "Conv" else second.shape[-2:-1]) if second.shape else ()
    multiplications = _elements(node.outputs[0].shape) * _elements(depth)
    yield ByteProduct(node, largest, _pair(second, kind_of_second, node.op), multiplications, is_constant(second))


def _pair(second: gs.Tensor, kind: np.dtype[Any], op: str) -> tuple[int, int]:
    if not is_constant(second):
        low, high = _codes(second, kind)
        return min(2 * low, 0), max(2 * high, 0)
    codes = constant_of(second).astype(np.int32)
    if op == "Conv":
        codes = codes.reshape(len(codes), -1).T
    codes = np.sort(codes, axis=-2)
    low, high = np.minimum(codes[..., :2, :], 0).sum(-2), np.maximum(codes[..., -2:, :], 0).sum(-2)
    return int(low.min()), int(high.max())


def _codes(tensor: gs.Tensor, kind: np.dtype[Any]) -> tuple[int, int]:
    """The smallest and the largest code of a tensor of bytes; its quantizer's Clip may allow less than its type."""
    limits = np.iinfo(kind)
    quantize = along_moves(tensor)[-1]
    if quantize.op != "QuantizeLinear" or clip_of(quantize) is None:
        return int(limits.min), int(limits.max)
    low, high = (code + int(constant_of(quantize.inputs[2])) for code in code_range(quantize))
    return max(low, int(limits.min)), min(high, int(limits.max))


def _elements(shape: Iterable[int | str] | None) -> int:
    """Of one image: a dynamic size is a number of windows times ``batch``."""
    return math.prod(int(number) for size in shape or () for number in re.findall(r"\d+", str(size)))
