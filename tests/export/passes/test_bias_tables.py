"""Large position biases become tables: the same numbers, stored once for each distance."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from repq_deploy.export.passes.bias_tables import LEAST, BiasTables
from repq_deploy.export.passes.graph import append
from tests.export.passes.graphs import as_model, ops, rewritten, run

SIDE, HEADS = 12, 4
TOKENS = SIDE * SIDE
DISTANCES = (2 * SIDE - 1) ** 2


def relative(seed: int) -> np.ndarray:
    """[1, heads, tokens, tokens] of a square grid; of the first head many distances are equal."""
    table = np.random.default_rng(seed).normal(size=(HEADS, DISTANCES)).astype(np.float32)
    table[0] = np.round(table[0])
    rows, columns = np.divmod(np.arange(TOKENS), SIDE)
    apart = [axis[:, None] - axis[None] + SIDE - 1 for axis in (rows, columns)]
    return table[:, apart[0] * (2 * SIDE - 1) + apart[1]][None]


def biased(*biases: np.ndarray) -> onnx.ModelProto:
    x = gs.Variable("x", np.float32, ["batch", *biases[0].shape[1:]])
    graph, y = gs.Graph(inputs=[x]), x
    for index, bias in enumerate(biases):
        y = append(graph, "Add", f"add{index}", [bias, y] if index % 2 else [y, bias], shape=x.shape)
    return as_model(graph, y)


def stored(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(one.dims)) for one in model.graph.initializer)


def test_biases_of_one_grid_share_an_index_and_equal_ones_a_table():
    first, second = relative(0), relative(1)
    model = biased(first, second, first)
    after, changed = rewritten(model, BiasTables())
    assert changed == [3]
    assert sorted(ops(after)) == ["Add"] * 3 + ["Gather"] * 2 + ["Reshape"] * 2
    assert stored(after) == TOKENS**2 + 2 * HEADS * DISTANCES + 2 * 4
    x = np.random.default_rng(2).normal(size=(2, HEADS, TOKENS, TOKENS)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x=x), run(model, x=x))


def test_zeros_keep_their_signs():
    bias = np.where(relative(0) > 0, np.float32(0), np.float32(-0.0))
    after, changed = rewritten(biased(bias), BiasTables())
    assert changed == [1]
    x = np.full((1, HEADS, TOKENS, TOKENS), -0.0, np.float32)
    assert np.array_equal(np.signbit(run(after, x=x)), np.signbit(bias))


@pytest.mark.parametrize(
    "bias",
    [
        np.random.default_rng(0).normal(size=(1, HEADS, TOKENS, TOKENS)).astype(np.float32),
        np.zeros((1, 1, 255, 255), np.float32),
        np.zeros((2, HEADS, TOKENS, TOKENS), np.float32),
        np.zeros((1, HEADS, 2 * TOKENS, TOKENS), np.float32),
    ],
    ids=["no two alike", "small", "of windows", "not square"],
)
def test_other_constants_stay(bias):
    assert bias.shape[2:] != (255, 255) or bias.size < LEAST
    assert rewritten(biased(bias), BiasTables())[1] == [0]
