"""Equal tables of many blocks are one constant, and the graph computes the same."""

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.graph import append
from repq_deploy.export.passes.shared_constants import SharedConstants
from tests.export.passes.graphs import as_model, rewritten, run


def test_equal_constants_are_stored_once():
    x = gs.Variable("x", np.float32, [32, 32])
    graph, y = gs.Graph(inputs=[x]), x
    table = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    for index, value in enumerate((table, table.copy(), table.T.copy(), table.reshape(1, 32, 32), table[:8, :8].sum())):
        y = append(graph, "Mul", f"mul_{index}", [y, np.asarray(value)])
    model = as_model(graph, y)
    after, changed = rewritten(model, SharedConstants())
    assert changed == [1]
    assert len(after.graph.initializer) == len(model.graph.initializer) - 1
    given = np.ones((32, 32), np.float32)
    assert np.array_equal(run(after, x=given), run(model, x=given))
