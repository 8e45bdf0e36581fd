"""What an operand of a product is: a quantized activation, an integer weight, logarithmic probabilities, or floats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_LOG2, DOMAIN
from repq_deploy.export.passes.graph import constant_of, site_of

__all__ = ["Activation", "Log2Probabilities", "Weight", "fp8", "operand"]

#: Operators between QuantizeLinear and DequantizeLinear that only move codes.
_MOVES = ("Reshape", "Transpose")

#: E4M3 has four significant bits, so every whole number up to here, and powers of two down to 2^-9.
_WHOLE, _SMALLEST = 16, -9

#: Exponent of the FP8 scale of logarithmic probabilities: 1 becomes 2^8, within E4M3's 448.
LOG2_EXPONENT = -8


def fp8(values: np.ndarray) -> np.ndarray:
    """``values`` as FP8 E4M3, ties to even."""
    return values.astype(ml_dtypes.float8_e4m3fn)


@dataclass(frozen=True)
class Activation:
    """``[Clip] -> quantize -> (Reshape | Transpose)* -> dequantize``, with one scale."""

    quantize: gs.Node
    dequantize: gs.Node

    @property
    def site(self) -> str:
        return site_of(self.quantize)

    @property
    def clip(self) -> gs.Node | None:
        producers = self.quantize.inputs[0].inputs
        return producers[0] if producers and producers[0].op == "Clip" else None

    @cached_property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        if self.clip is None:
            return -128, 127
        scale = float(constant_of(self.quantize.inputs[1]))
        low, high = (round(float(constant_of(bound)) / scale) for bound in self.clip.inputs[1:3])
        return low, high

    @property
    def exact_in_fp8(self) -> bool:
        return max(-self.codes[0], self.codes[1]) <= _WHOLE

    @property
    def described(self) -> str:
        return f"{self.site} (codes {self.codes[0]} to {self.codes[1]})"


@dataclass(frozen=True)
class Weight:
    """``dequantize(integer constant)``."""

    dequantize: gs.Node

    @property
    def site(self) -> str:
        return site_of(self.dequantize)

    @property
    def codes(self) -> np.ndarray:
        return constant_of(self.dequantize.inputs[0]).astype(np.float32)

    @property
    def exact_in_fp8(self) -> bool:
        return bool(np.array_equal(fp8(self.codes).astype(np.float32), self.codes))

    @property
    def described(self) -> str:
        return f"{self.site} (codes {self.codes.min():.0f} to {self.codes.max():.0f})"


@dataclass(frozen=True)
class Log2Probabilities:
    """``Log2QuantizeLinear -> dequantize``: powers of two, or of its root, times a scale."""

    dequantize: gs.Node

    @property
    def site(self) -> str:
        return site_of(self.dequantize)

    @property
    def exact_in_fp8(self) -> bool:
        smallest = -(2 ** self.dequantize.attrs["bits"] - 2)
        return bool(self.dequantize.attrs["steps_per_octave"] == 1 and smallest - LOG2_EXPONENT >= _SMALLEST)

    @property
    def described(self) -> str:
        kind = "log2" if self.dequantize.attrs["steps_per_octave"] == 1 else "log-sqrt2"
        return f"{self.site} ({kind}, {self.dequantize.attrs['bits']} bits)"


def operand(tensor: gs.Tensor) -> Activation | Weight | Log2Probabilities | None:
    """What ``tensor`` is, None where it is not quantized, or where its quantizer has other readers on the way."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None:
        return None
    if node.op == DEQUANTIZE_LOG2 and node.domain == DOMAIN:
        return Log2Probabilities(node)
    if node.op != "DequantizeLinear":
        return None
    if isinstance(node.inputs[0], gs.Constant):
        return Weight(node)
    codes = node.inputs[0]
    while len(codes.outputs) == 1 and codes.inputs[0].op in _MOVES:
        codes = codes.inputs[0].inputs[0]
    quantize = codes.inputs[0]
    if len(codes.outputs) != 1 or quantize.op != "QuantizeLinear" or constant_of(quantize.inputs[1]).ndim:
        return None
    return Activation(quantize, node)
