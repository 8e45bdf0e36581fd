"""Constants lose exactly the bits they should."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from repq_deploy.engines.rounding import round_constants, round_mantissa
from tests.engines.graphs import tiny


def test_eleven_bits_are_float16s() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(round_mantissa(values, 11), values.astype(np.float16).astype(np.float32))


def test_exponents_keep_float32s_range() -> None:
    values = np.array([0.0, 1e-30, -1e30, 3.0], np.float32)
    np.testing.assert_allclose(round_mantissa(values, 11), values, rtol=2.0**-11)


def test_only_floats_change() -> None:
    model = tiny()
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in round_constants(model, 11).graph.initializer}
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"low", "high", "scale", "weight_scale", "bias"}
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[3]), before["scale"])
