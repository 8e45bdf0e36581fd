"""FP8 and float variants of the same codes: exact where they claim it, refused where they are not."""

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx.reference import ReferenceEvaluator

from repq_deploy.errors import BadInput
from repq_deploy.export.domain import DOMAIN
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.passes.base import run_passes
from repq_deploy.export.passes.float_activations import FloatActivations
from repq_deploy.export.passes.fp8_products import FP8Products
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.operands import fp8
from tests.conftest import exported, images_for, lower_for

FP8 = onnx.TensorProto.FLOAT8E4M3FN
EXACT = "w4a4,head=w4a4,patch_embed=w4a4"


def made(family: str, bits: str, *, attention: str = "log2", preset: str = "deploy") -> onnx.ModelProto:
    return exported(family, bits, softmax=attention, preset=preset, method="best")


def run(model: onnx.ModelProto, family: str) -> np.ndarray:
    return reference_session(model).run(None, {"images": images_for(family).numpy()})[0]


def test_fp8_holds_the_whole_numbers_to_16_and_the_powers_of_two():
    whole = np.arange(-16, 17, dtype=np.float32)
    assert np.array_equal(fp8(whole).astype(np.float32), whole)
    assert fp8(np.array(17, np.float32)).astype(np.float32) != 17
    powers = 2.0 ** np.arange(-9, 9, dtype=np.float32)
    assert np.array_equal(fp8(powers).astype(np.float32), powers)
    assert fp8(np.array(2.0**-11, np.float32)).astype(np.float32) == 0


@pytest.mark.parametrize(("attention", "preset"), [("uniform", "deploy"), ("log2", "paper"), ("log2_max", "deploy")])
def test_four_bits_are_exact_in_fp8(family: str, attention: str, preset: str):
    """``paper`` has asymmetric weights, codes from -15 to 15."""
    model = made(family, EXACT, attention=attention, preset=preset)
    lowered, reports = lower_for(model, "tensorrt-rtx", half=False, compute="fp8")
    products = sum(node.op_type in ("MatMul", "Conv") for node in model.graph.node)
    assert {report.name: report.changed for report in reports}["FP8Products"] == products
    kinds = {tensor.data_type for tensor in lowered.graph.initializer}
    assert FP8 in kinds
    assert onnx.TensorProto.INT8 not in kinds
    exact, _ = lower_for(model, "tensorrt-rtx", half=False)
    assert np.array_equal(run(lowered, family), run(exact, family))


def test_the_reference_evaluator_agrees_with_onnx_runtime():
    model = made("vit", EXACT)
    lowered, _ = lower_for(model, "tensorrt-rtx", half=False, compute="fp8")
    ours = ReferenceEvaluator(lowered).run(None, {"images": images_for("vit").numpy()})[0]
    theirs = run(model, "vit")
    assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(theirs)


def test_what_fp8_cannot_hold_is_refused_by_name():
    with pytest.raises(BadInput, match=r"head\.input \(codes -128 to 127\).*fp8\+int8.*--allow-rounding"):
        lower_for(made("vit", "w4a4"), "tensorrt-rtx", half=True, compute="fp8")
    with pytest.raises(BadInput, match=r"blocks\.0\.attn\.p \(log-sqrt2, 4 bits\)"):
        lower_for(made("vit", EXACT, attention="log_sqrt2"), "tensorrt-rtx", half=True, compute="fp8")
    with pytest.raises(BadInput, match=r"blocks\.0\.attn\.q \(codes -\d+ to \d+\)"):
        lower_for(made("vit", "w6a6"), "tensorrt-rtx", half=True, compute="fp8")


def test_mixed_leaves_the_rest_on_int8(family: str):
    model = made(family, "w4a4")
    lowered, reports = lower_for(model, "tensorrt-rtx", half=False, compute="fp8+int8")
    products = sum(node.op_type in ("MatMul", "Conv") for node in model.graph.node)
    at_8_bits = 3 if family == "distilled" else 2  # the patch embedding and the head, or both heads
    assert {report.name: report.changed for report in reports}["FP8Products"] == products - at_8_bits
    kinds = [tensor.data_type for tensor in lowered.graph.initializer if tensor.name.startswith("head.")]
    assert onnx.TensorProto.INT8 in kinds
    assert FP8 not in kinds
    exact, _ = lower_for(model, "tensorrt-rtx", half=False)
    assert np.array_equal(run(lowered, family), run(exact, family))


def test_rounding_costs_what_fp8s_mantissa_says():
    model = made("vit", "w8a8", attention="log2")
    rounded, reports = lower_for(model, "tensorrt-rtx", half=False, compute="fp8", allow_rounding=True)
    products = sum(node.op_type in ("MatMul", "Conv") for node in model.graph.node)
    assert {report.name: report.changed for report in reports}["FP8Products"] == products
    error = np.linalg.norm(run(rounded, "vit") - run(model, "vit")) / np.linalg.norm(run(model, "vit"))
    assert 1e-4 < error < 0.5


def test_rounding_keeps_int8s_saturation():
    x, y = gs.Variable("x", np.float32, [4, 8]), gs.Variable("y", np.float32, [4, 2])
    codes, values = gs.Variable("codes", np.int8, [4, 8]), gs.Variable("values", np.float32, [4, 8])
    weights = gs.Variable("weights", np.float32, [8, 2])
    scale, zero = gs.Constant("scale", np.array(0.5, np.float32)), gs.Constant("zero", np.array(0, np.int8))
    weight = gs.Constant("w", np.eye(8, 2).astype(np.int8))
    nodes = [
        gs.Node("QuantizeLinear", "s/quantize", {}, [x, scale, zero], [codes]),
        gs.Node("DequantizeLinear", "s/dequantize", {}, [codes, scale, zero], [values]),
        gs.Node("DequantizeLinear", "w/dequantize", {}, [weight, scale, zero], [weights]),
        gs.Node("MatMul", "m", {}, [values, weights], [y]),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=21, ir_version=10)
    model, _ = run_passes(gs.export_onnx(graph), [FP8Products(allow_rounding=True)])
    given = np.full((4, 8), 150, np.float32)
    # 127 * 0.5 is clipped to; FP8 holds 127 as 128; the weight is 0.5.
    assert np.array_equal(reference_session(model).run(None, {"x": given})[0], np.full((4, 2), 64 * 0.5, np.float32))


@pytest.mark.parametrize("scale", [1.0, 0.73])
def test_log2_probabilities_are_exact_in_fp8_with_scale_2_to_the_minus_8(scale: float):
    p, v = gs.Variable("p", np.float32, [1, 500]), gs.Variable("v", np.float32, [500, 1])
    codes, values = gs.Variable("codes", np.uint8, [1, 500]), gs.Variable("values", np.float32, [1, 500])
    vcodes, vvalues = gs.Variable("vcodes", np.int8, [500, 1]), gs.Variable("vvalues", np.float32, [500, 1])
    y = gs.Variable("y", np.float32, [1, 1])
    constant, zero = gs.Constant("scale", np.array(scale, np.float32)), gs.Constant("zero", np.array(0, np.int8))
    low, high = (gs.Constant(n, np.array(c * 0.25, np.float32)) for n, c in (("low", -15), ("high", 15)))
    vscale, clipped = gs.Constant("vs", np.array(0.25, np.float32)), gs.Variable("clipped", np.float32, [500, 1])
    log2 = {"bits": 4, "steps_per_octave": 1}
    nodes = [
        gs.Node("Log2QuantizeLinear", "p/quantize", dict(log2), [p, constant], [codes], domain=DOMAIN),
        gs.Node("Log2DequantizeLinear", "p/dequantize", dict(log2), [codes, constant], [values], domain=DOMAIN),
        gs.Node("Clip", "v/clip", {}, [v, low, high], [clipped]),
        gs.Node("QuantizeLinear", "v/quantize", {}, [clipped, vscale, zero], [vcodes]),
        gs.Node("DequantizeLinear", "v/dequantize", {}, [vcodes, vscale, zero], [vvalues]),
        gs.Node("MatMul", "m", {}, [values, vvalues], [y]),
    ]
    graph = gs.Graph(nodes, [p, v], [y], opset=21, ir_version=10)
    graph.import_domains = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(DOMAIN, 1)]
    exported = gs.export_onnx(graph, do_type_check=False)
    converted, reports = run_passes(exported, [FP8Products(), Log2PlainOps()])
    plain, _ = run_passes(exported, [Log2PlainOps()])
    assert reports[0].changed == 1
    assert any(node.op_type == "QuantizeLinear" and "p/fp8" in node.name for node in converted.graph.node)
    rng = np.random.default_rng(0)
    given = {"p": rng.random((1, 500), np.float32) ** 8, "v": rng.normal(0, 2, (500, 1)).astype(np.float32)}
    ours, theirs = (reference_session(model).run(None, given)[0] for model in (converted, plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("bits", ["w4a4", "w6a6", "w8a8"])
def test_activations_in_float_are_exact_and_leave_weights_packed(bits: str):
    family = {"w4a4": "swin", "w6a6": "average", "w8a8": "vit"}[bits]
    model = made(family, bits)
    lowered, (report,) = run_passes(model, [FloatActivations()])
    assert report.changed == sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert not any(node.op_type == "QuantizeLinear" for node in lowered.graph.node)
    kinds = {tensor.data_type for tensor in lowered.graph.initializer}
    assert (onnx.TensorProto.INT4 in kinds) == (bits == "w4a4")
    assert np.array_equal(run(lowered, family), run(model, family))


@pytest.mark.parametrize("compute", ["fp8+int8", "fp16"])
def test_half_around_them_stays_near(compute: str):
    model = made("vit", "w4a4")
    lowered, _ = lower_for(model, "tensorrt-rtx", half=True, compute=compute)
    onnx.checker.check_model(lowered, full_check=True)
    scales = {node.input[1] for node in lowered.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    kinds = {tensor.data_type for tensor in lowered.graph.initializer if tensor.name in scales}
    assert kinds == {onnx.TensorProto.FLOAT16}
    error = np.linalg.norm(run(lowered, "vit") - run(model, "vit")) / np.linalg.norm(run(model, "vit"))
    assert error < 0.3


def test_fp8_codes_round_half_to_even_as_int8_does():
    grid = np.arange(-15, 16, 0.5, dtype=np.float32)
    assert np.array_equal(np.rint(grid).astype(ml_dtypes.float8_e4m3fn).astype(np.float32), np.rint(grid))
