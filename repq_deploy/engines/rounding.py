"""How much of a model's output is left to rounding: its canonical file against itself with every constant rounded.

A value that lies within rounding error of the border between two codes goes either way in a correct implementation. In
a deep low-bit network one such code moves others, and the sum is a property of the model: tiny for one, most of the
signal for another. So it is measured: each float constant, and the images unless they are bytes, are rounded to the
precision's mantissa, which is no larger an error than a correct engine makes in every operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["MANTISSA_BITS", "round_constants", "round_mantissa"]

#: With the leading one. FP16 has 11 bits; FP32 has 24, of which the last is what operations in another order change.
MANTISSA_BITS: Mapping[str, int] = MappingProxyType({"fp16": 11, "fp32": 23})


def round_mantissa(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """``values`` rounded to ``bits`` significant bits, ties to even; exponents keep float32's range."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)


def round_constants(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """A copy of ``model`` whose float32 initializers have ``bits`` significant bits."""
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    for tensor in rounded.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = round_mantissa(numpy_helper.to_array(tensor), bits)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return rounded
