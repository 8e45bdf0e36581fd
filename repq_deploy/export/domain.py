"""The ONNX domain ``repq``: quantizers that standard ONNX has no node for, each with a function body.

``Log2QuantizeLinear(x, scale) -> codes`` and ``Log2DequantizeLinear(codes, scale) -> values``, with attributes ``bits``
and ``steps_per_octave`` (1: log2, 2: log-sqrt2). Codes are uint8: code q below ``2^bits - 1`` is the value
``scale * 2^(-q / steps_per_octave)``, code ``2^bits - 1`` is zero. ``scale`` is a float32 scalar, ``x`` and the values
are float32 of one shape.

``LogQuantizeLinear(x, divisor, factor) -> codes`` and ``AtanQuantizeLinear`` with the same inputs give the uint8 codes
``clip(round(factor * f(x / divisor)), 0, 2^bits - 1)`` of a quantizer on a curve; f is the logarithm or the arc
tangent, ``divisor`` and ``factor`` are float32 scalars, and the attributes are ``bits`` and ``curve``, the quantizer's
kind. Its values are read from a table: ``TableDequantizeLinear(codes, table) -> values``, ``table`` float32 [2^bits].

A runtime that knows the nodes may run them as it likes; any other inlines the bodies, which are standard ONNX.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import FunctionProto, TensorProto, helper

__all__ = [
    "CURVE_FUNCTIONS",
    "DEQUANTIZE_LOG2",
    "DEQUANTIZE_TABLE",
    "DOMAIN",
    "DOMAIN_VERSION",
    "QUANTIZE_CURVE",
    "QUANTIZE_LOG2",
    "functions",
    "without_functions",
]

DOMAIN = "repq"
DOMAIN_VERSION = 1
QUANTIZE_LOG2 = "Log2QuantizeLinear"
DEQUANTIZE_LOG2 = "Log2DequantizeLinear"
#: The operators that curves are made of, with NumPy's function, and the quantizer of each.
CURVE_FUNCTIONS: dict[str, np.ufunc] = {"Atan": np.arctan, "Log": np.log}
QUANTIZE_CURVE = {function: f"{function}QuantizeLinear" for function in CURVE_FUNCTIONS}
DEQUANTIZE_TABLE = "TableDequantizeLinear"
_ATTRIBUTES = ["bits", "steps_per_octave"]


def functions(opset: int) -> list[FunctionProto]:
    """All functions of the domain, with bodies in the standard ``opset``."""

    def function(
        name: str, inputs: list[str], output: str, body: list[onnx.NodeProto], attributes: list[str]
    ) -> FunctionProto:
        imports = [helper.make_opsetid("", opset)]
        return helper.make_function(DOMAIN, name, inputs, [output], body, imports, attributes)

    return [
        function(QUANTIZE_LOG2, ["x", "scale"], "codes", _quantize_body(), _ATTRIBUTES),
        function(DEQUANTIZE_LOG2, ["codes", "scale"], "values", _dequantize_body(), _ATTRIBUTES),
        *(
            function(name, ["x", "divisor", "factor"], "codes", _quantize_curve_body(operator), ["bits", "curve"])
            for operator, name in QUANTIZE_CURVE.items()
        ),
        function(DEQUANTIZE_TABLE, ["codes", "table"], "values", _table_body(), []),
    ]


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` without function bodies, which graph-surgeon would take for its own."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.functions[:]
    return bare


def _constant(name: str, value: float) -> onnx.NodeProto:
    # Tools that go by NumPy make a double of an attribute value_float; a tensor has its type.
    tensor = helper.make_tensor("value", TensorProto.FLOAT, [], [value])
    return helper.make_node("Constant", [], [name], value=tensor)


def _attribute(name: str, output: str) -> list[onnx.NodeProto]:
    """The integer attribute ``name`` of the calling node, as the float scalar ``output``."""
    constant = helper.make_node("Constant", [], [f"{output}_int"])
    constant.attribute.append(onnx.AttributeProto(name="value_int", type=onnx.AttributeProto.INT, ref_attr_name=name))
    return [constant, helper.make_node("Cast", [f"{output}_int"], [output], to=TensorProto.FLOAT)]


def _last_code() -> list[onnx.NodeProto]:
    """``last = 2^bits - 1``, the code of zero."""
    return [
        *_attribute("bits", "bits"),
        _constant("two", 2.0),
        _constant("one", 1.0),
        helper.make_node("Pow", ["two", "bits"], ["levels"]),
        helper.make_node("Sub", ["levels", "one"], ["last"]),
    ]


def _quantize_body() -> list[onnx.NodeProto]:
    """codes = clip(round(-steps * log2(x / scale)), 0, last); log2(0) is -inf and clips to zero's code."""
    return [
        *_attribute("steps_per_octave", "steps"),
        *_last_code(),
        _constant("nats_to_octaves", -1 / math.log(2)),
        helper.make_node("Div", ["x", "scale"], ["ratio"]),
        helper.make_node("Log", ["ratio"], ["nats"]),
        helper.make_node("Mul", ["steps", "nats_to_octaves"], ["factor"]),
        helper.make_node("Mul", ["nats", "factor"], ["exact"]),
        *_to_codes(),
    ]


def _quantize_curve_body(operator: str) -> list[onnx.NodeProto]:
    """codes = clip(round(factor * f(x / divisor)), 0, last)."""
    return [
        *_last_code(),
        helper.make_node("Div", ["x", "divisor"], ["ratio"]),
        helper.make_node(operator, ["ratio"], ["bent"]),
        helper.make_node("Mul", ["bent", "factor"], ["exact"]),
        *_to_codes(),
    ]


def _to_codes() -> list[onnx.NodeProto]:
    return [
        _constant("first", 0.0),
        helper.make_node("Round", ["exact"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "first", "last"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["codes"], to=TensorProto.UINT8),
    ]


def _table_body() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["codes"], ["indices"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "indices"], ["values"]),
    ]


def _dequantize_body() -> list[onnx.NodeProto]:
    """The parity: with e = ceil(q / steps), 2^(-q / steps) = 2^-e * (sqrt2 where steps * e > q, else 1)."""
    return [
        *_last_code(),
        *_attribute("steps_per_octave", "steps"),
        _constant("zero", 0.0),
        _constant("sqrt2", math.sqrt(2)),
        helper.make_node("Cast", ["codes"], ["code"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["code", "steps"], ["octaves"]),
        helper.make_node("Ceil", ["octaves"], ["exponent"]),
        helper.make_node("Mul", ["exponent", "steps"], ["rounded_up"]),
        helper.make_node("Greater", ["rounded_up", "code"], ["odd"]),
        helper.make_node("Neg", ["exponent"], ["negated"]),
        helper.make_node("Pow", ["two", "negated"], ["power"]),
        helper.make_node("Where", ["odd", "sqrt2", "one"], ["parity_factor"]),
        helper.make_node("Mul", ["power", "parity_factor"], ["unscaled"]),
        helper.make_node("Mul", ["unscaled", "scale"], ["scaled"]),
        helper.make_node("Equal", ["code", "last"], ["is_zero"]),
        helper.make_node("Where", ["is_zero", "zero", "scaled"], ["values"]),
    ]
