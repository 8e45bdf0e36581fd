"""An RMS norm of torch's exporter is one kernel of ONNX Runtime's, with the same numbers."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.engines.backends import backend_named
from repq_deploy.export.passes.graph import append
from repq_deploy.export.passes.root_mean_square import RootMeanSquare
from tests.export.passes.graphs import as_model, ops, rewritten, run


def norm() -> onnx.ModelProto:
    x = gs.Variable("x", np.float32, ["b", 5, 8])
    graph, rows = gs.Graph(inputs=[x]), ["b", 5, 1]
    y = append(graph, "Pow", "square", [x, np.array(2, np.float32)], shape=x.shape)
    y = append(graph, "ReduceMean", "mean", [y, np.array([-1])], shape=rows, keepdims=1)
    y = append(graph, "Add", "epsilon", [y, np.array(1e-6, np.float32)], shape=rows)
    y = append(graph, "Sqrt", "root", [y], shape=rows)
    y = append(graph, "Reciprocal", "reciprocal", [y], shape=rows)
    y = append(graph, "Mul", "normed", [x, y], shape=x.shape)
    return as_model(graph, append(graph, "Mul", "scaled", [y, np.arange(8, dtype=np.float32)], shape=x.shape))


def test_it_is_one_kernel():
    before = norm()
    after, changed = rewritten(before, RootMeanSquare())
    assert changed == [1]
    served = backend_named("onnxruntime").served_graph
    assert ops(served(before)) != ["SimplifiedLayerNormalization"]
    assert ops(served(after)) == ["SimplifiedLayerNormalization"]
    given = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    expected = given / np.sqrt(np.square(given, dtype=np.float64).mean(-1, keepdims=True) + 1e-6) * np.arange(8)
    np.testing.assert_allclose(run(after, x=given), expected, rtol=1e-5, atol=1e-6)
