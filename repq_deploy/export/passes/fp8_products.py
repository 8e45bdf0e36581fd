"""Products of integers on FP8 hardware."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.errors import BadInput
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import Emitter, constant_of, nodes_of
from repq_deploy.export.passes.operands import LOG2_EXPONENT, Activation, Log2Probabilities, Weight, fp8, operand

__all__ = ["FP8Products"]

_SHOWN = 3


class FP8Products(Pass):
    """A MatMul or Conv of two quantized operands reads them as FP8 E4M3 in place of INT8, with the same codes.

    1. An activation is rounded to whole codes before: ``Clip -> Div -> Round -> Mul -> QuantizeLinear(FP8)``. FP8's own
       grid is finer than whole numbers near zero; the codes are whole.
    2. A weight's codes are stored as FP8.
    3. Logarithmic probabilities ``s 2^-k`` are quantized with the scale ``s 2^-8``: powers of two are FP8 numbers.

    Exact for codes from -16 to 16, and log2 probabilities of up to 4 bits. Other products stay as they are with
    ``mixed``; are rounded to FP8, without step 1, with ``allow_rounding``; and are refused, naming them, otherwise.
    Requires opset 19. Tolerance: none where exact, 2^-4 of a value where rounding is allowed.
    """

    def __init__(self, *, mixed: bool = False, allow_rounding: bool = False) -> None:
        self.mixed, self.allow_rounding = mixed, allow_rounding

    def call(self, graph: gs.Graph) -> int:
        products = {}
        inexact: dict[str, str] = {}
        for node in [*nodes_of(graph, "MatMul"), *nodes_of(graph, "Conv")]:
            operands = [operand(tensor) for tensor in node.inputs[:2]]
            known = [one for one in operands if one is not None]
            if len(known) < len(operands):
                continue
            wrong = [one for one in known if not one.exact_in_fp8]
            inexact.update((one.site, one.described) for one in wrong)
            if not wrong or self.allow_rounding:
                products[id(node)] = known
        if inexact and not (self.mixed or self.allow_rounding):
            some = ", ".join(list(inexact.values())[:_SHOWN])
            more = f" and {len(inexact) - _SHOWN} more" if len(inexact) > _SHOWN else ""
            raise BadInput(
                f"FP8 cannot hold every value of {len(inexact)} sites: {some}{more}; use fp8+int8 to leave their "
                "products on INT8, export them with at most 4 bits, or accept the error with --allow-rounding"
            )
        self._drop_shared(products)
        done: set[int] = set()
        for known in products.values():
            for one in known:
                if id(one.dequantize) not in done:
                    done.add(id(one.dequantize))
                    _convert(graph, one)
        return len(products)

    @staticmethod
    def _drop_shared(products: dict[int, list[Activation | Weight | Log2Probabilities]]) -> None:
        """Leave a product out where another product of an operand is left out."""
        while True:
            out = [
                key
                for key, known in products.items()
                if any(id(reader) not in products for one in known for reader in _products(one))
            ]
            if not out:
                return
            for key in out:
                del products[key]


def _products(one: Activation | Weight | Log2Probabilities) -> list[gs.Node]:
    """The products that read an operand; the sum of logarithmic probabilities is none, and takes them as FP8 too."""
    return [reader for reader in one.dequantize.outputs[0].outputs if reader.op in ("MatMul", "Conv")]


def _zero(name: str, shape: tuple[int, ...] = ()) -> gs.Constant:
    return gs.Constant(name, fp8(np.zeros(shape, np.float32)))


def _convert(graph: gs.Graph, one: Activation | Weight | Log2Probabilities) -> None:
    if isinstance(one, Activation):
        _convert_activation(graph, one)
    elif isinstance(one, Weight):
        _, scale, zero_point = one.dequantize.inputs
        one.dequantize.inputs = [
            gs.Constant(f"{one.site}/fp8", fp8(one.codes)),
            scale,
            _zero(f"{one.site}/fp8_zero", constant_of(zero_point).shape),
        ]
    else:
        _convert_probabilities(graph, one)


def _convert_activation(graph: gs.Graph, one: Activation) -> None:
    quantize, site = one.quantize, one.site
    x, scale = quantize.inputs[0], quantize.inputs[1]

    emit = Emitter(graph, f"{site}/fp8", x)
    if one.exact_in_fp8:
        x = emit("Mul", emit("Round", emit("Div", x, scale)), scale)
    elif one.clip is None:  # INT8 saturated; FP8 would only at 448
        x = emit("Clip", x, *(float(np.float32(code) * constant_of(scale)) for code in one.codes))
    zero = _zero(f"{site}/fp8_zero")
    quantize.inputs = [x, scale, zero]
    one.dequantize.inputs = [one.dequantize.inputs[0], one.dequantize.inputs[1], zero]
    tensor = one.dequantize.inputs[0]
    while tensor.inputs[0] is not quantize:
        tensor.dtype = np.dtype(ml_dtypes.float8_e4m3fn)
        tensor = tensor.inputs[0].inputs[0]
    tensor.dtype = np.dtype(ml_dtypes.float8_e4m3fn)


def _convert_probabilities(graph: gs.Graph, one: Log2Probabilities) -> None:
    values = one.dequantize.outputs[0]
    readers = list(values.outputs)
    factor = np.float32(constant_of(one.dequantize.inputs[1]) * 2.0**LOG2_EXPONENT)
    scale, zero = gs.Constant(f"{one.site}/fp8_scale", np.array(factor)), _zero(f"{one.site}/fp8_zero")
    codes = gs.Variable(f"{one.site}/fp8", np.dtype(ml_dtypes.float8_e4m3fn), values.shape)
    exact = gs.Variable(f"{one.site}/fp8_values", values.dtype, values.shape)
    graph.nodes.append(gs.Node("QuantizeLinear", f"{one.site}/fp8/quantize", {}, [values, scale, zero], [codes]))
    graph.nodes.append(gs.Node("DequantizeLinear", f"{one.site}/fp8/dequantize", {}, [codes, scale, zero], [exact]))
    for reader in readers:
        reader.inputs = [exact if tensor is values else tensor for tensor in reader.inputs]
