"""What an operand of a product is: a quantized activation, an integer weight, logarithmic probabilities, or floats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DEQUANTIZE_LOG2, DOMAIN
from repq_deploy.export.passes.graph import constant_of, is_constant, producer, site_of

__all__ = [
    "Activation",
    "Log2Probabilities",
    "Weight",
    "clip_of",
    "code_range",
    "exponent_of",
    "fp8",
    "logits_of_powers",
    "operand",
    "weight_of",
]

#: Operators between QuantizeLinear and DequantizeLinear that only move codes.
_MOVES = ("Reshape", "Transpose")

#: E4M3 has four significant bits, so every whole number up to here, and powers of two down to 2^-9.
_WHOLE, _SMALLEST = 16, -9

#: Exponent of the FP8 scale of logarithmic probabilities: 1 becomes 2^8, within E4M3's 448.
LOG2_EXPONENT = -8


def fp8(values: np.ndarray) -> np.ndarray:
    """``values`` as FP8 E4M3, ties to even."""
    return values.astype(ml_dtypes.float8_e4m3fn)


def clip_of(quantize: gs.Node) -> gs.Node | None:
    """The Clip right before a QuantizeLinear, which bounds its codes."""
    return producer(quantize.inputs[0], "Clip")


def code_range(quantize: gs.Node) -> tuple[int, int]:
    """The smallest and the largest signed code, without the zero point: what the Clip allows, or else all of INT8."""
    if (clip := clip_of(quantize)) is None:
        return -128, 127
    scale = float(constant_of(quantize.inputs[1]))
    low, high = (round(float(constant_of(bound)) / scale) for bound in clip.inputs[1:3])
    return low, high


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
        return clip_of(self.quantize)

    @cached_property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return code_range(self.quantize)

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
    def axis(self) -> int | None:
        """The axis of its scales."""
        return self.dequantize.attrs.get("axis")

    @property
    def stored(self) -> tuple[np.ndarray, ...]:
        """Codes, scales and zero points as they are in the file."""
        return tuple(constant_of(tensor) for tensor in self.dequantize.inputs)

    @property
    def codes(self) -> np.ndarray:
        return self.stored[0].astype(np.float32)

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


def weight_of(tensor: gs.Tensor) -> Weight | None:
    """The weight that ``tensor`` is: a DequantizeLinear of a constant gives it."""
    node = producer(tensor, "DequantizeLinear")
    return Weight(node) if node is not None and is_constant(node.inputs[0]) else None


def operand(tensor: gs.Tensor) -> Activation | Weight | Log2Probabilities | None:
    """What ``tensor`` is, None where it is not quantized, or where its quantizer has other readers on the way."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None:
        return None
    if node.op == DEQUANTIZE_LOG2 and node.domain == DOMAIN:
        return Log2Probabilities(node)
    if node.op != "DequantizeLinear":
        return None
    if (weight := weight_of(tensor)) is not None:
        return weight
    codes = node.inputs[0]
    while len(codes.outputs) == 1 and codes.inputs[0].op in _MOVES:
        codes = codes.inputs[0].inputs[0]
    quantize = codes.inputs[0]
    if len(codes.outputs) != 1 or quantize.op != "QuantizeLinear" or constant_of(quantize.inputs[1]).ndim:
        return None
    return Activation(quantize, node)


def exponent_of(quantize: gs.Node) -> gs.Tensor | None:
    """The logarithm of what a Log2QuantizeLinear with the scale 1 reads, where Exp computes that of it."""
    power = producer(quantize.inputs[0], "Exp")
    return power.inputs[0] if power is not None and float(constant_of(quantize.inputs[1])) == 1 else None


def logits_of_powers(p: gs.Tensor) -> gs.Tensor | None:
    """x, where ``p`` holds probabilities over the largest of their row: ``exp(x - max x)`` over the last axis."""
    power = producer(p, "Exp")
    below = power and producer(power.inputs[0], "Sub")
    largest = below and producer(below.inputs[1], "ReduceMax")
    if not largest or largest.inputs[0] is not below.inputs[0] or len(largest.inputs) < 2:
        return None
    logits: gs.Tensor = below.inputs[0]
    return logits if is_constant(largest.inputs[1], [-1]) else None
