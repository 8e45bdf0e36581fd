"""Each lowering pass on its own: what it changed, and that ONNX Runtime computes the same."""

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from repq_deploy.errors import BadInput
from repq_deploy.export.domain import DOMAIN
from repq_deploy.export.lowering import exact_anywhere
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.passes.activation_qdq import ActivationQDQ
from repq_deploy.export.passes.base import Pass, PassError, run_passes
from repq_deploy.export.passes.integer_weights import IntegerWeights
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.table_plain_ops import TablePlainOps
from repq_deploy.export.passes.to_half import ToHalf
from repq_deploy.export.passes.unpack_int4 import UnpackInt4
from tests.conftest import exported, images_for, lower_for, quantized_model


@pytest.fixture(scope="module")
def canonical() -> onnx.ModelProto:
    return exported("vit", "w4a4")


def logits(model: onnx.ModelProto, batch: int = 4) -> np.ndarray:
    return reference_session(model).run(None, {"images": images_for("vit", batch).numpy()})[0]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_unpacked_weights_are_exact(canonical):
    unpacked, (report,) = run_passes(canonical, [UnpackInt4()])
    assert report.changed == 8
    assert np.array_equal(logits(unpacked), logits(canonical))


def test_plain_log2_is_exact(canonical):
    plain, (report,) = run_passes(canonical, [Log2PlainOps()])
    assert report.changed == 2
    assert not plain.functions
    assert {node.domain for node in plain.graph.node} == {""}
    assert relative(logits(plain), logits(canonical)) < 1e-5


@pytest.mark.parametrize("steps", [1, 2])
def test_plain_log2_both_bases(steps):
    x = gs.Variable("x", np.float32, [1000])
    codes, values = gs.Variable("codes", np.uint8, [1000]), gs.Variable("values", np.float32, [1000])
    scale = gs.Constant("scale", np.array(0.9, np.float32))
    attributes = {"bits": 4, "steps_per_octave": steps}
    graph = gs.Graph(
        [
            gs.Node("Log2QuantizeLinear", "p/quantize", dict(attributes), [x, scale], [codes], domain=DOMAIN),
            gs.Node("Log2DequantizeLinear", "p/dequantize", dict(attributes), [codes, scale], [values], domain=DOMAIN),
        ],
        [x],
        [values],
        opset=21,
        ir_version=10,
    )
    Log2PlainOps().call(graph)
    given = np.random.default_rng(0).random(1000, np.float32) ** 6
    (ours,) = reference_session(gs.export_onnx(graph.cleanup().toposort())).run(None, {"x": given})
    code = np.clip(np.rint(-steps * np.log2(given / np.float32(0.9))), 0, 15)
    np.testing.assert_allclose(ours, np.where(code == 15, 0, 0.9 * 2.0 ** (-code / steps)), rtol=1e-6)


@pytest.mark.parametrize("attention", ["tan", "adalog"])
def test_plain_tables_compute_the_same(attention):
    tables = exported("vit", "w8a4", softmax=attention)
    plain, (report,) = run_passes(tables, [TablePlainOps()])
    assert report.changed == 2
    assert {node.domain for node in tables.graph.node} == {"", DOMAIN}
    assert {node.domain for node in plain.graph.node} == {""}
    assert relative(logits(plain), logits(tables)) < 1e-5


def test_half_computes_the_same_to_half_precision():
    eight = exported("vit", "w8a8")
    plain, _ = run_passes(eight, [UnpackInt4(), Log2PlainOps()])
    half, (report,) = run_passes(plain, [ToHalf()])
    assert report.changed > 100
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert half.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    kinds = {t.data_type for t in half.graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds
    assert relative(logits(half), logits(plain)) < 0.03


def test_half_lets_outputs_be_read_within_and_sizes_stay_single():
    x, up, y = (gs.Variable(name, np.float32, ["n", 2, side, side]) for name, side in (("x", 2), ("up", 4), ("y", 4)))
    sizes = gs.Constant("sizes", np.array([1, 1, 2, 2], np.float32))
    double = gs.Constant("double", np.full((1,), 2, np.float32))
    nodes = [
        gs.Node("Resize", "resize", {"mode": "nearest"}, [x, gs.Variable.empty(), sizes], [up]),
        gs.Node("Mul", "mul", {}, [up, double], [y]),
    ]
    graph = gs.Graph(nodes, [x], [up, y], opset=21, ir_version=10)
    half, _ = run_passes(gs.export_onnx(graph), [ToHalf()])
    onnx.checker.check_model(half, full_check=True)
    given = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    found = reference_session(half).run(None, {"x": given})
    assert np.array_equal(found[0], given.repeat(2, axis=2).repeat(2, axis=3))
    assert np.array_equal(found[1], 2 * found[0])


def test_half_keeps_infinities():
    x, y = gs.Variable("x", np.float32, [2]), gs.Variable("y", np.float32, [2])
    least = gs.Constant("least", np.array([-np.inf, 1.0], np.float32))
    graph = gs.Graph([gs.Node("Max", "max", {}, [x, least], [y])], [x], [y], opset=21, ir_version=10)
    ToHalf().call(graph)
    assert least.values.tolist() == [-np.inf, 1.0]
    assert least.values.dtype == np.float16


def test_half_refuses_what_it_cannot_hold():
    x, y = gs.Variable("x", np.float32, [2]), gs.Variable("y", np.float32, [2])
    big = gs.Constant("big", np.array([1.0, 1e6], np.float32))
    graph = gs.Graph([gs.Node("Add", "add", {}, [x, big], [y])], [x], [y], opset=21, ir_version=10)
    with pytest.raises(BadInput, match="big: holds 1e\\+06"):
        ToHalf().call(graph)


def test_half_keeps_scales_above_zero():
    x, y, z = (gs.Variable(name, kind, [2, 2]) for name, kind in (("x", np.int8), ("y", np.float32), ("z", np.float32)))
    scale = gs.Constant("scale", np.array([1e-9, 0.25], np.float32))
    small = gs.Constant("small", np.array([1e-9, 0.0], np.float32))
    weight = gs.Node("DequantizeLinear", "dq", {"axis": 0}, [x, scale], [y])
    nodes = [weight, gs.Node("Add", "add", {}, [y, small], [z])]
    ToHalf().call(gs.Graph(nodes, [x], [z], opset=21, ir_version=10))
    assert scale.values.tolist() == [2.0**-24, 0.25] and small.values.tolist() == [0.0, 0.0]
    assert scale.values.dtype == small.values.dtype == np.float16


def fake_quantize(x: gs.Tensor, *, scale: np.ndarray, zero_point: np.ndarray, **attributes: int) -> gs.Graph:
    y = gs.Variable("y", np.float32, x.shape)
    inputs = [x, gs.Constant("s", scale), gs.Constant("z", zero_point)]
    node = gs.Node("FakeQuantize", "fq", {"site": "w", **attributes}, inputs, [y], domain=DOMAIN)
    return gs.Graph([node], [x] if isinstance(x, gs.Variable) else [], [y], opset=21, ir_version=10)


@pytest.mark.parametrize(("bits", "zero", "kind"), [(4, 8, ml_dtypes.int4), (4, 3, np.int8), (6, 20, np.int8)])
def test_integer_weights_hold_the_codes(bits, zero, kind):
    weight = np.random.default_rng(0).normal(0, 1, (5, 40)).astype(np.float32)
    scale = np.full(5, 0.2, np.float32)
    graph = fake_quantize(
        gs.Constant("weight", weight), scale=scale, zero_point=np.full(5, zero, np.float32), bits=bits, axis=0
    )
    assert IntegerWeights().call(graph) == 1
    (node,) = [node for node in graph.nodes if node.op == "DequantizeLinear"]
    codes = node.inputs[0].values
    assert codes.dtype == kind
    expected = np.clip(np.rint(weight / 0.2) + zero, 0, 2**bits - 1) - zero
    assert np.array_equal(codes.astype(np.int8), expected)
    assert not node.inputs[2].values.any()


def test_weights_outside_int8_are_a_defect():
    graph = fake_quantize(
        gs.Constant("weight", np.array([[-60.0, 0.0]], np.float32)),
        scale=np.array([0.25], np.float32),
        zero_point=np.array([240], np.float32),
        bits=8,
        axis=0,
    )
    with pytest.raises(PassError, match="do not fit INT8"):
        IntegerWeights().call(graph)


@pytest.mark.parametrize("bits", range(2, 8))
def test_clip_and_symmetric_int8_is_any_asymmetric_quantizer(bits):
    rng = np.random.default_rng(bits)
    x = rng.normal(0, 3, 2000).astype(np.float32)
    for zero in (0, 1, 2**bits // 3, 2**bits - 1):
        scale = np.float32(5 / 2**bits)
        graph = fake_quantize(
            gs.Variable("x", np.float32, [2000]),
            scale=np.array(scale),
            zero_point=np.array(zero, np.float32),
            bits=bits,
        )
        ActivationQDQ().call(graph)
        (ours,) = reference_session(gs.export_onnx(graph.cleanup().toposort())).run(None, {"x": x})
        expected = (np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1) - zero) * scale
        assert np.array_equal(ours, expected.astype(np.float32))
        assert len(np.unique(ours)) <= 2**bits


def test_a_channel_wise_activation_is_a_defect():
    graph = fake_quantize(
        gs.Variable("x", np.float32, [3, 2]),
        scale=np.ones(2, np.float32),
        zero_point=np.full(2, 8, np.float32),
        bits=4,
        axis=-1,
    )
    with pytest.raises(PassError, match="one scale per tensor"):
        ActivationQDQ().call(graph)


@pytest.mark.parametrize(
    ("backend", "half"), [("onnxruntime", False), ("openvino", False), ("tensorrt-rtx", False), ("tensorrt", True)]
)
def test_lowering_leaves_standard_onnx(family, backend, half):
    model = exported(family, "w8a8")
    lowered, reports = lower_for(model, backend, half=half)
    assert {entry.domain for entry in lowered.opset_import} <= {"", "com.microsoft"}
    assert {report.name for report in reports} >= {"UnpackInt4", "Log2PlainOps"}
    assert backend == "onnxruntime" or len(lowered.opset_import) == 1
    assert {e.key: e.value for e in lowered.metadata_props} == {e.key: e.value for e in model.metadata_props}
    images = {"images": images_for(family).numpy()}
    # Lowered for CPUs that sum in 32 bits, which this one may not do.
    (ours,), (expected,) = (reference_session(m).run(None, images) for m in (exact_anywhere(lowered), model))
    assert relative(ours, expected) < (0.06 if half else 1e-5)


def test_what_cannot_be_lowered_is_refused(canonical):
    with pytest.raises(BadInput, match="expected one of onnxruntime"):
        lower_for(canonical, "onnx", half=False)
    with pytest.raises(BadInput, match="compute in fp32"):
        lower_for(canonical, "onnxruntime", half=True)


def test_float_attention_is_lowered_to_the_fused_kernel():
    model = quantized_model("vit", "w8a8", softmax="float")
    assert not [site for site in model.quantizers() if site.endswith((".q", ".k", ".v", ".p"))]
    canonical = exported("vit", "w8a8", softmax="float")
    assert {e.key: e.value for e in canonical.metadata_props}["repq.softmax"] == "float"
    lowered, _ = lower_for(canonical, "onnxruntime", half=False)
    assert [node.op_type for node in lowered.graph.node].count("MultiHeadAttention") == 2
    assert relative(logits(exact_anywhere(lowered)), logits(canonical)) < 1e-5


def test_the_model_that_passes_read_stays_as_it_is(canonical):
    """Its constants are read where they are; graph-surgeon would write new names into them."""

    class Rename(Pass):
        """Every constant gets another name."""

        def call(self, graph: gs.Graph) -> int:
            constants = [tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)]
            for tensor in constants:
                tensor.name = f"{tensor.name}/renamed"
            return len(constants)

    before = canonical.SerializeToString(deterministic=True)
    renamed, (report,) = run_passes(canonical, [Rename()])
    assert canonical.SerializeToString(deterministic=True) == before
    assert report.changed == len(renamed.graph.initializer) > 0
    assert all(tensor.name.endswith("/renamed") for tensor in renamed.graph.initializer)
