"""The passes that put products into ONNX Runtime's integer kernel: same numbers, and the form each promises."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from repq_deploy.export.lowering import exact_anywhere
from repq_deploy.export.passes.graph import append
from repq_deploy.export.passes.integer_products import IntegerProducts
from repq_deploy.export.passes.patch_product import PatchProduct
from repq_deploy.export.passes.quantize_before_moves import QuantizeBeforeMoves
from repq_deploy.export.passes.separate_projections import SeparateProjections
from repq_deploy.export.passes.unsigned_codes import UnsignedCodes
from tests.export.passes.graphs import as_model, finish, ops, quantize, rewritten, run, weight


def run_exactly(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    """``run`` on any CPU: products of bytes of 8 bits saturate on some."""
    return run(finish(exact_anywhere(model)), **inputs)


def image(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("bits", "zero_point"), [(8, 128), (6, 20), (4, 0), (4, 15)])
def test_a_linear_layer_is_one_integer_product(bits, zero_point):
    x = gs.Variable("x", np.float32, ["batch", 5, 12])
    graph = gs.Graph(inputs=[x])
    shifted = append(graph, "Add", "shift", [x, np.array(3 * 0.02, np.float32)], shape=x.shape) if bits == 8 else x
    values = quantize(graph, shifted, "input", scale=0.02, bits=bits, zero_point=zero_point)
    y = append(graph, "MatMul", "product", [values, weight(graph, "w", (12, 7))], shape=["batch", 5, 7])
    model = as_model(graph, append(graph, "Add", "bias", [y, image(7)], shape=["batch", 5, 7]))
    after, changed = rewritten(model, UnsignedCodes(), IntegerProducts())
    assert changed == [1, 1]
    assert ops(after) == [*(["Clip"] if bits < 8 else []), "QuantizeLinear", "MatMulIntegerToFloat"]
    given = image(3, 5, 12)
    np.testing.assert_allclose(run_exactly(after, x=given), run(model, x=given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shift", [np.array(0.009, np.float32), np.full(12, 0.02, np.float32)], ids=["number", "vector"]
)
def test_a_shift_between_codes_and_one_of_each_channel_stay(shift):
    x = gs.Variable("x", np.float32, ["batch", 12])
    graph = gs.Graph(inputs=[x])
    shifted = append(graph, "Add", "shift", [x, shift], shape=x.shape)
    values = quantize(graph, shifted, "input", scale=0.02)
    y = append(graph, "MatMul", "product", [values, weight(graph, "w", (12, 7))], shape=["batch", 7])
    after, _ = rewritten(as_model(graph, y), UnsignedCodes())
    assert "Add" in ops(after)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_product_of_activations_is_one_integer_product(bits):
    q, k = (gs.Variable(name, np.float32, shape) for name, shape in (("q", ["b", 2, 9, 4]), ("k", ["b", 2, 4, 9])))
    graph = gs.Graph(inputs=[q, k])
    factors = [
        quantize(graph, tensor, tensor.name, scale=0.02 if bits == 8 else 0.3, bits=bits, zero_point=2 ** (bits - 1))
        for tensor in (q, k)
    ]
    y = append(graph, "MatMul", "product", factors, shape=["b", 2, 9, 9])
    y = append(graph, "Mul", "scaled", [y, np.array(0.5, np.float32)], shape=["b", 2, 9, 9])
    model = as_model(graph, y)
    after, changed = rewritten(model, UnsignedCodes(), IntegerProducts())
    assert changed == [1, 1]
    zeros = {t.name: t for t in after.graph.initializer}
    (product,) = [node for node in after.graph.node if node.op_type == "MatMulIntegerToFloat"]
    kinds = [np.dtype(np.uint8) if zeros[name].data_type == 2 else np.dtype(np.int8) for name in product.input[4:6]]
    assert kinds == [np.uint8, np.int8]
    given = {"q": image(3, 2, 9, 4), "k": image(3, 2, 4, 9, seed=2)}
    np.testing.assert_allclose(run_exactly(after, **given), run(model, **given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", ["vit", "swin"])
def test_a_patch_embedding_is_one_integer_product(channels_last):
    x = gs.Variable("x", np.float32, ["batch", 3, 8, 12])
    graph = gs.Graph(inputs=[x])
    values = quantize(graph, x, "input", scale=0.02)
    inputs = [values, weight(graph, "w", (6, 3, 4, 4), axis=0), image(6)]
    attributes = {"kernel_shape": [4, 4], "strides": [4, 4], "pads": [0, 0, 0, 0], "group": 1}
    y = append(graph, "Conv", "conv", inputs, shape=["batch", 6, 2, 3], **attributes)
    if channels_last == "vit":
        y = append(graph, "Reshape", "flat", [y, np.array([-1, 6, 6])], shape=["batch", 6, 6])
        y = append(graph, "Transpose", "last", [y], shape=["batch", 6, 6], perm=[0, 2, 1])
    else:
        y = append(graph, "Transpose", "last", [y], shape=["batch", 2, 3, 6], perm=[0, 2, 3, 1])
    model = as_model(graph, y)
    after, changed = rewritten(model, UnsignedCodes(), PatchProduct(), IntegerProducts())
    assert changed == [1, 1, 1]
    assert "Conv" not in ops(after)
    given = image(3, 3, 8, 12)
    np.testing.assert_allclose(run_exactly(after, x=given), run(model, x=given), rtol=1e-5, atol=1e-5)


def test_overlapping_patches_stay_a_convolution():
    x = gs.Variable("x", np.float32, ["batch", 3, 8, 8])
    graph = gs.Graph(inputs=[x])
    inputs = [quantize(graph, x, "input", scale=0.02), weight(graph, "w", (6, 3, 4, 4), axis=0)]
    attributes = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [0, 0, 0, 0], "group": 1}
    y = append(graph, "Conv", "conv", inputs, shape=["batch", 6, 3, 3], **attributes)
    y = append(graph, "Transpose", "last", [y], shape=["batch", 3, 3, 6], perm=[0, 2, 3, 1])
    assert rewritten(as_model(graph, y), UnsignedCodes(), PatchProduct())[1] == [1, 0]


def test_one_projection_becomes_three():
    x = gs.Variable("x", np.float32, ["batch", 5, 12])
    graph = gs.Graph(inputs=[x])
    values = quantize(graph, x, "input", scale=0.02)
    y = append(graph, "MatMul", "product", [values, weight(graph, "w", (12, 36))], shape=["batch", 5, 36])
    y = append(graph, "Add", "bias", [y, image(36)], shape=["batch", 5, 36])
    y = append(graph, "Reshape", "heads", [y, np.array([-1, 5, 3, 2, 6])], shape=["batch", 5, 3, 2, 6])
    y = append(graph, "Transpose", "first", [y], shape=[3, "batch", 2, 5, 6], perm=[2, 0, 3, 1, 4])
    parts = []
    for index in range(3):
        bounds = [np.array([bound]) for bound in (index, index + 1, 0)]
        part = append(graph, "Slice", f"slice{index}", [y, *bounds], shape=[1, "batch", 2, 5, 6])
        parts.append(append(graph, "Squeeze", f"part{index}", [part, np.array([0])], shape=["batch", 2, 5, 6]))
    total = append(graph, "Sub", "qk", parts[:2], shape=["batch", 2, 5, 6])
    model = as_model(graph, append(graph, "Mul", "qkv", [total, parts[2]], shape=["batch", 2, 5, 6]))
    after, changed = rewritten(model, SeparateProjections())
    assert changed == [1]
    assert ops(after).count("MatMul") == 3
    assert not {"Slice", "Squeeze"} & set(ops(after))
    given = image(3, 5, 12)
    np.testing.assert_allclose(run_exactly(after, x=given), run(model, x=given), rtol=1e-6)


def test_quantizers_move_above_what_only_moves():
    x = gs.Variable("x", np.float32, ["batch", 5, 12])
    graph = gs.Graph(inputs=[x])
    y = append(graph, "Reshape", "heads", [x, np.array([-1, 5, 2, 6])], shape=["batch", 5, 2, 6])
    y = append(graph, "Transpose", "first", [y], shape=["batch", 2, 5, 6], perm=[0, 2, 1, 3])
    y = append(graph, "Transpose", "turned", [y], shape=["batch", 2, 6, 5], perm=[0, 1, 3, 2])
    model = as_model(graph, quantize(graph, y, "k", scale=0.3, bits=4, zero_point=8))
    after, changed = rewritten(model, QuantizeBeforeMoves())
    assert changed == [4]
    assert ops(after) == ["Clip", "QuantizeLinear", "Reshape", "Transpose", "DequantizeLinear"]
    given = image(3, 5, 12)
    assert np.array_equal(run(after, x=given), run(model, x=given))
