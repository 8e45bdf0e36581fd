"""The passes around attention: what each changed, and that the graph computes the same on ONNX Runtime."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from repq_deploy.export.domain import DOMAIN
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.passes.attention_scale import AttentionScale
from repq_deploy.export.passes.base import Pass, run_passes
from repq_deploy.export.passes.log2_by_log_sum_exp import Log2ByLogSumExp
from repq_deploy.export.passes.quantize_before_moves import QuantizeBeforeMoves
from tests.conftest import exported, images_for

BLOCKS = {"vit": 2, "dinov2": 2, "average": 1, "swin": 4}


@pytest.fixture(
    scope="module", params=[(family, "w4a4" if family == "vit" else "w8a8") for family in BLOCKS], ids="-".join
)
def model(request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto]:
    family, bits = request.param
    return family, exported(family, bits)


def run(model: onnx.ModelProto, family: str) -> np.ndarray:
    return reference_session(model).run(None, {"images": images_for(family).numpy()})[0]


def decibel(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(np.square(b).sum() / max(np.square(a - b).sum(), 1e-30)))


@pytest.mark.parametrize(
    ("passes", "changed"),
    [
        ([AttentionScale()], [1]),
    ],
    ids=["scale"],
)
def test_it_computes_the_same(model: tuple[str, onnx.ModelProto], passes: list[Pass], changed: list[int]):
    family, canonical = model
    rewritten, reports = run_passes(canonical, passes)
    expected = [BLOCKS[family] * places for places in changed]
    assert [report.changed for report in reports] == expected
    onnx.checker.check_model(rewritten, full_check=True)
    # Swin's and the others' heads have sizes whose scale is no power of two: ties may fall the other way.
    assert decibel(run(rewritten, family), run(canonical, family)) > 30


@pytest.mark.parametrize("attention", ["log2", "log_sqrt2"])
@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_logarithms_of_a_softmax_from_its_logits(attention: str, bits: str):
    """In a graph of its own, so that no later quantizer amplifies a tie; the oracle is NumPy in float64."""
    steps, width = (1 if attention == "log2" else 2), int(bits[1])
    x, p = gs.Variable("x", np.float32, [2, 40, 40]), gs.Variable("p", np.float32, [2, 40, 40])
    codes, y = gs.Variable("codes", np.uint8, [2, 40, 40]), gs.Variable("y", np.float32, [2, 40, 40])
    scale, log2 = gs.Constant("scale", np.array(0.83, np.float32)), {"bits": width, "steps_per_octave": steps}
    nodes = [
        gs.Node("Softmax", "softmax", {"axis": -1}, [x], [p]),
        gs.Node("Log2QuantizeLinear", "p/quantize", dict(log2), [p, scale], [codes], domain=DOMAIN),
        gs.Node("Log2DequantizeLinear", "p/dequantize", dict(log2), [codes, scale], [y], domain=DOMAIN),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=21, ir_version=10)
    assert Log2ByLogSumExp().call(graph) == 1
    graph.cleanup().toposort()
    assert {node.op for node in graph.nodes} >= {"Exp", "ReduceSum"}
    assert sum(node.op in ("Log", "Where") for node in graph.nodes) == 1 + (width == 4)
    given = 4 * np.random.default_rng(0).normal(size=(2, 40, 40)).astype(np.float32)
    (ours,) = reference_session(gs.export_onnx(graph)).run(None, {"x": given})
    exponent = given.astype(np.float64) - given.max(-1, keepdims=True)
    probabilities = np.exp(exponent) / np.exp(exponent).sum(-1, keepdims=True)
    code = np.clip(np.rint(-steps * np.log2(probabilities / np.float32(0.83))), 0, 2**width - 1)
    expected = np.where(code == 2**width - 1, 0, np.float32(0.83) * 2.0 ** (-code / steps))
    close = np.isclose(ours, expected, rtol=1e-5, atol=1e-30)
    assert np.count_nonzero(~close) <= 1  # a tie
    assert len(np.unique(code)) > 10


def test_early_quantizers_stand_behind_what_computes(model: tuple[str, onnx.ModelProto]):
    family, canonical = model
    rewritten, _ = run_passes(canonical, [AttentionScale(), QuantizeBeforeMoves(("Reshape", "Transpose"))])
    assert decibel(run(rewritten, family), run(canonical, family)) > 60
    graph = gs.import_onnx(rewritten)
    for node in graph.nodes:
        if node.op == "QuantizeLinear":
            producer = node.inputs[0].inputs[0]
            assert producer.op not in ("Transpose", "Reshape"), node.name
        if node.op == "DequantizeLinear" and node.outputs[0].outputs:
            assert node.outputs[0].outputs[0].op in ("MatMul", "Conv"), node.name


def test_early_quantize_is_exact_with_a_shift_and_a_clip():
    x = gs.Variable("x", np.float32, [2, 3, 4])
    moved, shifted, clipped = (gs.Variable(name, np.float32, [2, 4, 3]) for name in ("moved", "shifted", "clipped"))
    codes, y = gs.Variable("codes", np.int8, [2, 4, 3]), gs.Variable("y", np.float32, [2, 4, 3])
    number = {n: gs.Constant(n, np.array(v, np.float32)) for n, v in {"shift": 0.3, "low": -0.8, "high": 1.5}.items()}
    scale, zero = gs.Constant("scale", np.array(0.1, np.float32)), gs.Constant("zero", np.array(0, np.int8))
    nodes = [
        gs.Node("Transpose", "t", {"perm": [0, 2, 1]}, [x], [moved]),
        gs.Node("Add", "a", {}, [moved, number["shift"]], [shifted]),
        gs.Node("Clip", "c", {}, [shifted, number["low"], number["high"]], [clipped]),
        gs.Node("QuantizeLinear", "q", {}, [clipped, scale, zero], [codes]),
        gs.Node("DequantizeLinear", "d", {}, [codes, scale, zero], [y]),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=21, ir_version=10)
    given = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    before = reference_session(gs.export_onnx(graph)).run(None, {"x": given})[0]
    assert QuantizeBeforeMoves().call(graph) == 1
    graph.cleanup().toposort()
    assert [node.op for node in graph.nodes] == ["Add", "Clip", "QuantizeLinear", "Transpose", "DequantizeLinear"]
    after = reference_session(gs.export_onnx(graph)).run(None, {"x": given})[0]
    np.testing.assert_array_equal(after, before)
    expected = np.rint(np.clip(given.transpose(0, 2, 1) + np.float32(0.3), -0.8, 1.5) / np.float32(0.1)) * 0.1
    np.testing.assert_allclose(after, expected, atol=1e-6)


def test_a_quantizer_per_channel_stays_where_it_is():
    x, moved = gs.Variable("x", np.float32, [3, 4]), gs.Variable("moved", np.float32, [4, 3])
    codes = gs.Variable("codes", np.int8, [4, 3])
    scale, zero = gs.Constant("scale", np.ones(3, np.float32)), gs.Constant("zero", np.zeros(3, np.int8))
    nodes = [
        gs.Node("Transpose", "t", {"perm": [1, 0]}, [x], [moved]),
        gs.Node("QuantizeLinear", "q", {"axis": 1}, [moved, scale, zero], [codes]),
    ]
    assert QuantizeBeforeMoves().call(gs.Graph(nodes, [x], [codes], opset=21)) == 0


def test_a_factor_that_is_not_attentions_stays():
    a, b = gs.Variable("a", np.float32, [2, 2]), gs.Variable("b", np.float32, [2, 2])
    product, y = gs.Variable("product", np.float32, [2, 2]), gs.Variable("y", np.float32, [2, 2])
    negative = gs.Constant("c", np.array(-2.0, np.float32))
    nodes = [gs.Node("MatMul", "m", {}, [a, b], [product]), gs.Node("Mul", "s", {}, [product, negative], [y])]
    assert AttentionScale().call(gs.Graph(nodes, [a, b], [y], opset=21)) == 0
