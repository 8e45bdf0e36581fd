"""Large position biases are stored as the tables that they were looked up in."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import append, constant_of, nodes_of

__all__ = ["LEAST", "BiasTables"]

#: Biases of fewer numbers (a quarter of a megabyte) stay as they are.
LEAST = 2**16


class BiasTables(Pass):
    """``Add(x, bias [1, heads, N, N])`` becomes ``Add(x, Reshape(Gather(table [heads, entries], index [N N])))``.

    A relative position bias depends on the distance of two tokens: few of its columns, one number for each head,
    differ. The table has each of them once; the index, int32, is one constant for all biases of the same geometry.
    BEiT-L at 384 pixels has 0.5 GB of biases, of 5 MB of tables. Runtimes gather once, as they open the file.

    Fires on a constant of at least ``LEAST`` numbers that has four times as many as its table. Exact.
    """

    def call(self, graph: gs.Graph) -> int:
        made: dict[tuple[bytes, ...], gs.Tensor] = {}
        changed = 0
        for node in nodes_of(graph, "Add"):
            for place, tensor in enumerate(node.inputs):
                if isinstance(tensor, gs.Constant) and _is_bias(tensor):
                    replacement = _looked_up(graph, node.name, constant_of(tensor), made)
                    if replacement is not None:
                        node.inputs[place] = replacement
                        changed += 1
        return changed


def _is_bias(tensor: gs.Constant) -> bool:
    shape = tuple(tensor.shape)
    square = len(shape) == 4 and shape[0] == 1 and shape[2] == shape[3]
    return square and tensor.dtype == np.float32 and int(np.prod(shape)) >= LEAST


def _looked_up(
    graph: gs.Graph, name: str, bias: np.ndarray, made: dict[tuple[bytes, ...], gs.Tensor]
) -> gs.Tensor | None:
    """``bias`` gathered from a table, with constants and outputs that were ``made`` before; None where none is due."""
    heads, tokens = bias.shape[1:3]
    columns = np.ascontiguousarray(bias.reshape(heads, -1))
    first, index = _distinct(columns)
    table = columns[:, first]
    if 4 * table.size > bias.size or not np.array_equal(table[:, index].view(np.int32), columns.view(np.int32)):
        return None
    of_index, of_both = (index.tobytes(),), (index.tobytes(), table.tobytes())
    if of_index not in made:
        made[of_index] = gs.Constant(f"{name}/distances", index)
    if of_both not in made:
        flat = append(graph, "Gather", f"{name}/looked_up", [table, made[of_index]], shape=columns.shape, axis=1)
        shape = np.array([1, heads, tokens, tokens], np.int64)
        made[of_both] = append(graph, "Reshape", f"{name}/bias", [flat, shape], shape=list(bias.shape))
    return made[of_both]


def _distinct(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of columns that differ, in the order of their first ones, and for each column which of them it is.

    Columns [heads, n] are told apart by a hash of their bits, which the caller checks.
    """
    factors = np.random.default_rng(0).integers(1, 2**63, len(columns), np.uint64)
    keys = (columns.view(np.uint32).astype(np.uint64) * factors[:, None]).sum(axis=0, dtype=np.uint64)
    _, first, found = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[found].astype(np.int32)
