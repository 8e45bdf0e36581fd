"""Rotation by position in one kernel: same numbers in each layout, and where the pass does not fire."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from repq_deploy.export.passes.graph import append
from repq_deploy.export.passes.rotary_embedding import RotaryEmbedding
from tests.export.passes.graphs import as_model, ops, rewritten, run

TOKENS, HEADS, SIZE = 5, 3, 8


def tables(*, of_each_head: bool = False, partners: bool = True) -> list[np.ndarray]:
    shape = (*([HEADS] * of_each_head), TOKENS, SIZE // 2)
    first, second = np.random.default_rng(0).normal(size=(2, *shape))
    second = first if partners else second
    pairs = (np.cos(first), np.cos(second)), (-np.sin(first), np.sin(second))
    return [np.concatenate(pair, -1).astype(np.float32) for pair in pairs]


def rotation(*, turned: bool = True, order: tuple[int, int] = (1, 0), **options: bool) -> gs.Graph:
    """``turned``: of a projection's rows; ``order``: of the halves."""
    x = gs.Variable("x", np.float32, ["b", TOKENS, HEADS * SIZE] if turned else ["b", HEADS, TOKENS, SIZE])
    graph = gs.Graph(inputs=[x])
    if turned:
        shape = [TOKENS, HEADS, SIZE]
        x = append(graph, "Reshape", "heads", [x, np.array([-1, *shape])], shape=["b", *shape])
        x = append(graph, "Transpose", "turn", [x], shape=["b", HEADS, TOKENS, SIZE], perm=[0, 2, 1, 3])
    cos, sin = tables(**options)
    halves = [
        append(graph, "Slice", f"half_{one}", [x, *(np.array([4 * n]) for n in (one, one + 1)), np.array([3])])
        for one in order
    ]
    exchanged = append(graph, "Concat", "exchanged", halves, shape=x.shape, axis=-1)
    parts = [append(graph, "Mul", "kept", [x, cos], shape=x.shape)]
    parts.append(append(graph, "Mul", "added", [exchanged, sin], shape=x.shape))
    graph.outputs = [append(graph, "Add", "sum", parts, shape=x.shape)]
    return graph


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["RotaryEmbedding", "Reshape", "Transpose"]),
        ({"turned": False}, ["RotaryEmbedding"]),
        ({"of_each_head": True, "turned": False}, ["Reshape", "RotaryEmbedding", "Reshape"]),
    ],
    ids=str,
)
def test_a_rotation_is_one_kernel(options, expected):
    graph = rotation(**options)
    model = as_model(graph, *graph.outputs)
    after, changed = rewritten(model, RotaryEmbedding())
    assert changed == [1]
    assert ops(after) == expected
    given = np.random.default_rng(1).normal(size=(2, *graph.inputs[0].shape[1:])).astype(np.float32)
    np.testing.assert_allclose(run(after, x=given), run(model, x=given), rtol=1e-5, atol=1e-6)


def test_equal_tables_are_stored_once():
    graph = rotation()
    twice = append(graph, "Add", "again", [graph.outputs[0].inputs[0].inputs[0], graph.outputs[0].inputs[0].inputs[1]])
    twice.shape = graph.outputs[0].shape
    after, changed = rewritten(as_model(graph, graph.outputs[0], twice), RotaryEmbedding())
    assert changed == [2]
    assert len({name for node in after.graph.node if node.op_type == "RotaryEmbedding" for name in node.input[2:]}) == 2


@pytest.mark.parametrize("options", [{"partners": False}, {"order": (0, 1)}], ids=str)
def test_what_is_no_rotation_stays(options):
    graph = rotation(**options)
    assert rewritten(as_model(graph, *graph.outputs), RotaryEmbedding())[1] == [0]
