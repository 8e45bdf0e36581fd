"""Which products of bytes need more than 16 bits, and the forms that need no more."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from repq_deploy.export.lowering import exact_anywhere, saturation_of
from repq_deploy.export.passes.byte_products import byte_products
from repq_deploy.export.passes.float_code_products import FloatCodeProducts
from repq_deploy.export.passes.graph import append
from repq_deploy.export.passes.integer_products import IntegerProducts
from repq_deploy.export.passes.quantize_before_moves import QuantizeBeforeMoves
from repq_deploy.export.passes.unsaturated_products import UnsaturatedProducts
from repq_deploy.export.passes.unsigned_codes import UnsignedCodes
from tests.export.passes.graphs import as_model, finish, ops, quantize, rewritten, run
from tests.export.passes.saturating import saturating

INTEGERS = (UnsignedCodes(), IntegerProducts())


def linear(codes: np.ndarray, *, bits: int = 8, zero_point: int = 128) -> onnx.ModelProto:
    """``DQ(Q(x)) @ DQ(codes) + 1``."""
    rows, columns = codes.shape
    x = gs.Variable("x", np.float32, ["batch", rows])
    graph = gs.Graph(inputs=[x])
    values = quantize(graph, x, "input", scale=0.5, bits=bits, zero_point=zero_point)
    arrays = [codes.astype(np.int8), np.full(columns, 0.25, np.float32), np.zeros(columns, np.int8)]
    weight = append(graph, "DequantizeLinear", "w/dequantize", arrays, shape=list(codes.shape), axis=1)
    y = append(graph, "MatMul", "product", [values, weight], shape=["batch", columns])
    return as_model(graph, append(graph, "Add", "bias", [y, np.ones(columns, np.float32)], shape=["batch", columns]))


@pytest.mark.parametrize(
    ("bits", "low", "high", "saturates"),
    [
        (8, -127, 127, True),
        (8, -64, 63, False),  # 7-bit weights: 255 * -128 fits
        (8, -65, 63, True),
        (8, -64, 64, False),  # 255 * 128 = 32640
        (8, -64, 65, True),
        (7, -127, 127, False),  # 127 * 254 = 32258
        (4, -128, 127, False),
    ],
)
def test_the_bound_is_that_of_two_codes_of_a_column(bits, low, high, saturates):
    codes = np.zeros((6, 4), np.int8)
    codes[[0, 3], 1], codes[[1, 4], 2] = low, high  # not neighbours: kernels choose their pairs
    model, _ = rewritten(linear(codes, bits=bits, zero_point=2 ** (bits - 1)), *INTEGERS)
    (product,) = byte_products(gs.import_onnx(model))
    assert product.largest == 2**bits - 1
    assert product.pair == (min(2 * low, 0), max(2 * high, 0))
    assert product.saturates is saturates
    assert product.multiplications == 6 * 4


@pytest.mark.parametrize("seed", range(8))
def test_what_is_said_to_fit_16_bits_is_equal_in_16_bits(seed):
    """Random widths: the emulated kernel differs on the worst input where a product is said to saturate, and on none
    where it is not."""
    rng = np.random.default_rng(seed)
    reach, bits = int(rng.choice([31, 63, 64, 90, 127])), int(rng.integers(4, 9))
    codes = rng.integers(-reach, reach + 1, (8, 3))
    codes[:2, 0] = reach  # neighbours, so that the kernel meets them
    model, _ = rewritten(linear(codes, bits=bits, zero_point=2 ** (bits - 1)), *INTEGERS)
    worst = np.array(list(itertools.product((-1e3, 1e3), repeat=8)), np.float32)
    equal = np.array_equal(run(saturating(model), x=worst), run(finish(exact_anywhere(model)), x=worst))
    assert equal is not bool(saturation_of(model).products)


def test_a_product_that_saturates_becomes_unsigned_and_no_other():
    rng = np.random.default_rng(0)
    wide, narrow = (linear(rng.integers(-reach, reach + 1, (8, 5))) for reach in (127, 63))
    for model, changed in ((wide, 1), (narrow, 0)):
        integer, _ = rewritten(model, *INTEGERS)
        safe, counts = rewritten(integer, UnsaturatedProducts())
        assert counts == [changed]
        assert saturation_of(safe).products == 0
        given = rng.normal(size=(40, 8), scale=60).astype(np.float32)
        expected = run(model, x=given)
        np.testing.assert_allclose(run(safe, x=given), expected, rtol=1e-6)
        np.testing.assert_allclose(run(saturating(safe), x=given), expected, rtol=1e-6)
        assert np.array_equal(run(exact_anywhere(integer), x=given), run(safe, x=given))


def attention_logits(bits_q: int, bits_k: int) -> onnx.ModelProto:
    q, k = (gs.Variable(name, np.float32, ["batch", 9, 12]) for name in ("q", "k"))
    graph = gs.Graph(inputs=[q, k])
    heads = [
        append(graph, "Reshape", f"{x.name}/heads", [x, np.array([-1, 9, 3, 4])], shape=["batch", 9, 3, 4])
        for x in (q, k)
    ]
    q4 = append(graph, "Transpose", "q/turn", [heads[0]], shape=["batch", 3, 9, 4], perm=[0, 2, 1, 3])
    k4 = append(graph, "Transpose", "k/turn", [heads[1]], shape=["batch", 3, 4, 9], perm=[0, 2, 3, 1])
    factors = [
        quantize(graph, x, x.name, scale=0.3, bits=bits, zero_point=2 ** (bits - 1))
        for x, bits in ((q4, bits_q), (k4, bits_k))
    ]
    return as_model(graph, append(graph, "MatMul", "product", factors, shape=["batch", 3, 9, 9]))


@pytest.mark.parametrize(("bits_q", "bits_k", "changed"), [(8, 8, 1), (8, 7, 0), (7, 8, 0), (4, 4, 0)])
def test_products_of_activations_become_unsigned_where_their_quantizer_makes_them_so(bits_q, bits_k, changed):
    model = attention_logits(bits_q, bits_k)
    integer, _ = rewritten(model, UnsignedCodes(), QuantizeBeforeMoves(), IntegerProducts())
    safe, counts = rewritten(integer, UnsaturatedProducts())
    assert counts == [changed]
    assert "DequantizeLinear" not in ops(safe)
    assert saturation_of(safe).products == 0
    given = {
        name: np.random.default_rng(i).normal(size=(2, 9, 12), scale=20).astype(np.float32)
        for i, name in enumerate("qk")
    }
    np.testing.assert_allclose(run(safe, **given), run(model, **given), rtol=1e-5)


def test_in_float_codes_are_multiplied_where_they_could_saturate():
    rng = np.random.default_rng(0)
    wide, narrow = (linear(rng.integers(-reach, reach + 1, (8, 5))) for reach in (127, 63))
    for model, changed in ((wide, 1), (narrow, 0)):
        safe, counts = rewritten(model, FloatCodeProducts(sums_in_16_bits=True))
        assert counts == [changed]
        assert ops(safe).count("QuantizeLinear") == 1 - changed
        given = rng.normal(size=(40, 8), scale=60).astype(np.float32)
        np.testing.assert_allclose(run(safe, x=given), run(model, x=given), rtol=1e-6)
        same, counts = rewritten(model, FloatCodeProducts(sums_in_16_bits=False))
        assert counts == [0]
        assert ops(same) == ops(model)


def test_a_convolution_in_float_keeps_its_bias():
    rng = np.random.default_rng(0)
    x = gs.Variable("x", np.float32, ["batch", 3, 8, 8])
    graph = gs.Graph(inputs=[x])
    arrays = [rng.integers(-127, 128, (6, 3, 4, 4), dtype=np.int8), rng.random(6, np.float32), np.zeros(6, np.int8)]
    weight = append(graph, "DequantizeLinear", "w/dequantize", arrays, shape=[6, 3, 4, 4], axis=0)
    inputs = [quantize(graph, x, "input", scale=0.02), weight, rng.random(6, np.float32)]
    attributes = {"kernel_shape": [4, 4], "strides": [4, 4], "pads": [0, 0, 0, 0], "group": 1}
    model = as_model(graph, append(graph, "Conv", "conv", inputs, shape=["batch", 6, 2, 2], **attributes))
    safe, counts = rewritten(model, FloatCodeProducts(sums_in_16_bits=True))
    assert counts == [1]
    given = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(safe, x=given), run(model, x=given), rtol=1e-4, atol=1e-4)


def test_floats_by_integer_weights_are_left_to_no_runtime():
    """ONNX Runtime would make MatMulNBits of it, which quantizes the floats; the codes stay integers in the file."""
    rng = np.random.default_rng(0)
    x = gs.Variable("x", np.float32, ["batch", 64])
    graph = gs.Graph(inputs=[x])
    arrays = [rng.integers(-7, 8, (64, 32), dtype=np.int8), rng.random(32, np.float32), np.zeros(32, np.int8)]
    weight = append(graph, "DequantizeLinear", "w/dequantize", arrays, shape=[64, 32], axis=1)
    model = as_model(graph, append(graph, "MatMul", "product", [x, weight], shape=["batch", 32]))
    after, counts = rewritten(model, FloatCodeProducts(sums_in_16_bits=False))
    assert counts == [1]
    assert ops(after) == ["Cast", "MatMul", "Mul"]
    given = rng.normal(size=(5, 64)).astype(np.float32)
    np.testing.assert_allclose(run(after, x=given), run(model, x=given), rtol=1e-4, atol=1e-5)
