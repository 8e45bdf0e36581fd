"""Rolled and padded windows as one gather of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import append, constant_of, is_constant, replace_output

__all__ = ["TokenGather"]

_MOVES = frozenset({"Concat", "Pad", "Reshape", "Slice", "Transpose"})

#: The number of what a Pad puts in.
_ZERO = -1


class TokenGather(Pass):
    """What only reorders tokens [B, h, w, C], Swin's roll by Slices and Concats included, becomes one Gather.

    1. A chain of Slice, Concat, Reshape, Transpose and Pad nodes that rolls, pads or crops, from one tensor to one
       tensor, is run on numbered elements. Where every token stays whole and within its image, or is left out, the
       numbers are the indices of ``Reshape [B, h w, C] -> Gather -> Reshape``. A Where behind the Gather gives the
       tokens of zeros that a Pad puts in.
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
    if len(sources) != 1 or not _more_than_turns(chain):
        return False
    (source,) = sources.values()
    if _size(source) == 0 or _size(end.outputs[0]) == 0:
        return False
    batch = graph.inputs[0].shape[0]
    # The source, or else the end, has an image's windows in the batch; the tensors between have not.
    size = max(_size(tensor) for tensor in [source, *(node.outputs[0] for node in chain if source.shape[0] != batch)])
    if size % _size(source):
        return False
    channels = source.shape[-1]
    numbers = np.arange(size, dtype=np.int64).reshape(-1, *source.shape[1:])
    moved = _run(end.outputs[0], {id(source): numbers})
    if moved is None or moved.shape[-1] != channels:
        return False
    rows = moved.reshape(-1, channels)
    order = rows[:, 0] // channels
    whole = np.where(order[:, None] == _ZERO, _ZERO, order[:, None] * channels + np.arange(channels))
    if not np.array_equal(rows, whole):
        return False
    name, tokens = end.name, np.array([-1, size // channels, channels], np.int64)
    shape = [batch, len(order), channels]
    y = append(graph, "Reshape", f"{name}/tokens", [source, tokens], shape=[batch, *tokens[1:].tolist()])
    y = append(graph, "Gather", f"{name}/gather", [y, np.maximum(order, 0)], shape=shape, axis=1)
    if (order == _ZERO).any():
        zeros = np.zeros(channels, np.float32)
        y = append(graph, "Where", f"{name}/pad", [order[None, :, None] == _ZERO, zeros, y], shape=shape)
    target = np.array([-1, *moved.shape[1:]], np.int64)
    replace_output(end, append(graph, "Reshape", f"{name}/shape", [y, target], shape=end.outputs[0].shape), graph)
    return True


def _size(tensor: gs.Tensor) -> int:
    """The elements of a tensor behind its first axis; 0 where they are not known."""
    known = tensor.shape is not None and all(isinstance(size, int) for size in tensor.shape[1:])
    return int(np.prod(tensor.shape[1:])) if known else 0


def _is_move(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op in _MOVES


def _moved(node: gs.Node) -> list[gs.Tensor]:
    """The inputs whose elements ``node`` moves."""
    return list(node.inputs) if node.op == "Concat" else [node.inputs[0]]


def _more_than_turns(chain: Sequence[gs.Node]) -> bool:
    """Whether windows are rolled, padded, or cropped: other ones are cut by one Transpose, which costs less."""
    pads = any(node.op == "Pad" and not is_constant(node.inputs[1], np.zeros(8)) for node in chain)
    return pads or any(node.op == "Concat" for node in chain) or {"Slice", "Transpose"} <= {node.op for node in chain}


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
    arguments = [one for one in node.inputs[1:] if node.op != "Concat" and not one.is_empty()]
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
    if node.attrs.get("mode", "constant") != "constant" or any(value.any() for value in constants[1:]):
        return None
    return np.pad(x, constants[0].reshape(2, -1).T, constant_values=_ZERO)
