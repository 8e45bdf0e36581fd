"""Rotation by position as ONNX Runtime's one kernel."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import append, constant_of, is_constant, nodes_of, producer, replace_output

__all__ = ["RotaryEmbedding"]


class RotaryEmbedding(Pass):
    """``x cos + (x with its halves exchanged) sin``, x [B, heads, N, d], becomes ``com.microsoft.RotaryEmbedding``.

    1. Where one table serves all heads and x is ``Reshape [B, N, heads, d] -> Transpose`` of a projection, the kernel
       reads and writes the projection's layout, and Reshape and Transpose come after it.
    2. Where one table serves all heads, it reads x.
    3. With tables for each head [heads, N, d] it reads x as one head of heads * N tokens.

    Fires where both tables are constants, and partners have one cosine and opposite sines. Equal tables are stored
    once. Exact to float rounding.
    """

    def call(self, graph: gs.Graph) -> int:
        stored: dict[bytes, gs.Constant] = {}
        return sum(_rewrite(graph, node, stored) for node in nodes_of(graph, "Add"))


def _rewrite(graph: gs.Graph, add: gs.Node, stored: dict[bytes, gs.Constant]) -> bool:
    products = [producer(tensor, "Mul") for tensor in add.inputs]
    if any(product is None for product in products):
        return False
    (x, cos), (exchanged, sin) = (_by_constant(product) for product in products)
    concat = None if exchanged is None else producer(exchanged, "Concat")
    if x is None or cos is None or sin is None or concat is None or len(x.shape or ()) != 4:
        return False
    heads, tokens, size = x.shape[1:]
    if not _exchanges_halves(concat, x, size) or not isinstance(tokens, int) or cos.shape[-2:] != (tokens, size):
        return False
    half = size // 2
    partners = np.array_equal(cos[..., :half], cos[..., half:]) and np.array_equal(sin[..., :half], -sin[..., half:])
    if not partners or cos.shape != sin.shape:
        return False
    cache = []
    for table in (cos, sin):
        rows = np.ascontiguousarray(table[..., half:].reshape(-1, half))
        cache.append(stored.setdefault(rows.tobytes(), gs.Constant(f"rotary_table_{len(stored)}", rows)))
    if cache[0].shape[0] not in (tokens, heads * tokens):
        return False
    replace_output(add, _turned(graph, add.name, x, cache), graph)
    return True


def _turned(graph: gs.Graph, name: str, x: gs.Tensor, cache: list[gs.Constant]) -> gs.Tensor:
    """``x`` turned by the cosines and sines [tokens, d / 2] of ``cache``."""
    batch, heads, tokens, size = x.shape

    def rotary(y: gs.Tensor) -> gs.Tensor:
        inputs = [y, np.zeros(1, np.int64), *cache]  # the position of the first token is 0
        return append(graph, "RotaryEmbedding", f"{name}/rotary", inputs, shape=y.shape, domain="com.microsoft")

    def shaped(y: gs.Tensor, what: str, shape: list[int]) -> gs.Tensor:
        return append(graph, "Reshape", f"{name}/{what}", [y, np.array([-1, *shape], np.int64)], shape=[batch, *shape])

    if cache[0].shape[0] != tokens:
        return shaped(rotary(shaped(x, "one_head", [1, heads * tokens, size])), "heads", [heads, tokens, size])
    transpose = producer(x, "Transpose")
    reshape = None if transpose is None else producer(transpose.inputs[0], "Reshape")
    if reshape is None or transpose.attrs["perm"] != [0, 2, 1, 3] or len(reshape.inputs[0].shape or ()) != 3:
        return rotary(x)
    y = shaped(rotary(reshape.inputs[0]), "heads", [tokens, heads, size])
    return append(graph, "Transpose", f"{name}/transpose", [y], shape=x.shape, perm=[0, 2, 1, 3])


def _by_constant(multiply: gs.Node) -> tuple[gs.Tensor | None, np.ndarray | None]:
    """The factor of a Mul that is computed, and the constant one; None for both where there are not one of each."""
    constants = [tensor for tensor in multiply.inputs if is_constant(tensor)]
    others = [tensor for tensor in multiply.inputs if not is_constant(tensor)]
    return (others[0], constant_of(constants[0])) if len(constants) == len(others) == 1 else (None, None)


def _exchanges_halves(concat: gs.Node, x: gs.Tensor, size: int) -> bool:
    """Whether ``concat`` puts the second half of the channels of ``x`` before the first."""
    if concat.attrs["axis"] not in (-1, 3) or size % 2 or len(concat.inputs) != 2:
        return False
    numbers: list[int] = []
    for tensor in concat.inputs:
        cut = producer(tensor, "Slice")
        if cut is None or cut.inputs[0] is not x or not all(is_constant(one) for one in cut.inputs[1:]):
            return False
        start, end, axis = (constant_of(one).item() for one in cut.inputs[1:4])
        if axis not in (-1, 3) or (len(cut.inputs) > 4 and constant_of(cut.inputs[4]).item() != 1):
            return False
        numbers += range(size)[start:end]
    return numbers == [*range(size // 2, size), *range(size // 2)]
