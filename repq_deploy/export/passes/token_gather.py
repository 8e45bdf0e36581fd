"""Rolled windows as one gather of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import append, constant_of, is_constant, replace_output

__all__ = ["TokenGather"]

_MOVES = frozenset({"Concat", "Pad", "Reshape", "Slice", "Transpose"})


class TokenGather(Pass):
    """What only reorders tokens [B, h, w, C], Swin's roll by Slices and Concats included, becomes one Gather.

    1. A chain of Slice, Concat, Reshape, Transpose and empty Pad nodes with at least one Concat, from one tensor to one
       tensor, is run on numbered elements. Where every token stays whole and within its image, the numbers are the
       indices of ``Reshape [B, h w, C] -> Gather -> Reshape``.
    2. A Pad by nothing, wherever it is, is dropped.

    Exact.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for node in list(graph.nodes):
            if node.op in _MOVES and not all(reader.op in _MOVES for reader in node.outputs[0].outputs):
                changed += _gather(graph, node)
        for node in list(graph.cleanup().nodes):
            if node.op == "Pad" and is_constant(node.inputs[1]) and not constant_of(node.inputs[1]).any():
                replace_output(node, node.inputs[0], graph)
                changed += 1
        return changed


def _gather(graph: gs.Graph, end: gs.Node) -> bool:
    chain = list(_chain(end))
    sources = {id(tensor): tensor for node in chain for tensor in _moved(node) if not _is_move(tensor)}
    if len(sources) != 1 or not any(node.op == "Concat" for node in chain):
        return False
    (source,) = sources.values()
    shapes = [source.shape, end.outputs[0].shape]
    if not all(shape is not None and all(isinstance(size, int) for size in shape[1:]) for shape in shapes):
        return False
    # One of the two may have its windows in the batch.
    size, channels = max(int(np.prod(shape[1:])) for shape in shapes), source.shape[-1]
    tokens = size // channels
    numbers = np.arange(size, dtype=np.int64).reshape(-1, *source.shape[1:])
    moved = _run(end.outputs[0], {id(source): numbers})
    if moved is None or moved.size != numbers.size or moved.shape[-1] != channels:
        return False
    order = moved.reshape(tokens, channels) // channels
    if not np.array_equal(moved.reshape(tokens, channels), order[:, :1] * channels + np.arange(channels)):
        return False
    name, batch = end.name, graph.inputs[0].shape[0]
    rows = np.array([-1, tokens, channels], np.int64)
    y = append(graph, "Reshape", f"{name}/tokens", [source, rows], shape=[batch, tokens, channels])
    y = append(graph, "Gather", f"{name}/gather", [y, order[:, 0].copy()], shape=[batch, tokens, channels], axis=1)
    target = np.array([-1, *moved.shape[1:]], np.int64)
    replace_output(end, append(graph, "Reshape", f"{name}/shape", [y, target], shape=end.outputs[0].shape), graph)
    return True


def _is_move(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op in _MOVES


def _moved(node: gs.Node) -> list[gs.Tensor]:
    """The inputs whose elements ``node`` moves."""
    return list(node.inputs) if node.op == "Concat" else [node.inputs[0]]


def _chain(node: gs.Node) -> Iterator[gs.Node]:
    yield node
    for tensor in _moved(node):
        if _is_move(tensor):
            yield from _chain(tensor.inputs[0])


def _run(tensor: gs.Tensor, known: dict[int, np.ndarray]) -> np.ndarray | None:  # noqa: PLR0911 - one an operator
    """The value of ``tensor`` from those ``known`` by id; None where a node is not of constant arguments."""
    if id(tensor) in known:
        return known[id(tensor)]
    node = tensor.inputs[0]
    values = [_run(one, known) for one in _moved(node)]
    arguments = [one for one in node.inputs[1:] if node.op != "Concat"]
    if any(value is None for value in values) or not all(is_constant(one) for one in arguments):
        return None
    x, constants = values[0], [constant_of(one) for one in arguments]
    assert x is not None  # noqa: S101 - for the type checker
    if node.op == "Concat":
        return np.concatenate([value for value in values if value is not None], axis=node.attrs["axis"])
    if node.op == "Transpose":
        return x.transpose(node.attrs["perm"])
    if node.op == "Reshape":
        return x.reshape(constants[0].tolist())
    if node.op == "Slice":
        cuts = [slice(None)] * x.ndim
        for start, end, axis in zip(*constants[:3], strict=True):
            cuts[axis] = slice(start, end)
        return x[tuple(cuts)] if len(constants) == 3 or (constants[3] == 1).all() else None
    return None if constants[0].any() else x
