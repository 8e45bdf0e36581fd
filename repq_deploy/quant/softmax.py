"""How attention probabilities are quantized: the kinds of quantizer, and how each finds its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from repq_deploy.quant import ops
from repq_deploy.quant.quantizers import (
    Log2Quantizer,
    Parameters,
    Quantizer,
    Search,
    TableParameters,
    UniformQuantizer,
)
from repq_deploy.quant.ranges import PERCENTILES, log2_search, quantiles, sample

__all__ = [
    "SOFTMAX_KINDS",
    "AdaLogQuantizer",
    "SoftmaxQuantizer",
    "TanQuantizer",
    "adalog_search",
    "softmax_quantizer",
    "softmax_search",
]

#: Uniform; logarithmic (FQ-ViT's log2, RepQ-ViT's log-sqrt2); AdaLog's adaptive base; DopQ-ViT's tangent.
#: "by_bits": log2 below ``UNIFORM_FROM`` bits, uniform from there on; neither has a scale for each element.
#: "float": nothing between the projections qkv and proj is quantized.
SoftmaxQuantizer = Literal["uniform", "log2", "log_sqrt2", "adalog", "tan", "by_bits", "float"]

SOFTMAX_KINDS: tuple[str, ...] = get_args(SoftmaxQuantizer)

#: Of the published code's 37 / n, n = 10 .. 138, every fourth.
_ADALOG_STEPS = [37 / n for n in range(10, 139, 4)]


#: The step of a logarithmic quantizer does not shrink with more bits, that of a uniform one does.
UNIFORM_FROM = 6


class _TableQuantizer(Quantizer):
    """A quantizer of numbers from 0 on: codes follow from ``scale`` and ``shape``, values are read from a table.

    The table [2^bits] is computed once in float64, so that every runtime has the same values to the last bit.
    """

    shape: Tensor
    table: Tensor

    def __init__(self, site: str, bits: int) -> None:
        super().__init__(site, bits)
        self.register_buffer("shape", torch.tensor(1.0))
        self.register_buffer("table", torch.zeros(2**bits))

    def adopt(self, found: Parameters) -> None:
        assert isinstance(found, TableParameters)  # noqa: S101 - for the type checker
        self.scale, self.shape = found.scale.detach().clone(), found.shape.detach().clone()
        self.table = self.levels(found).float()

    def levels(self, parameters: TableParameters) -> Tensor:
        """The value of each code, [2^bits], float64."""
        raise TypeError(f"{type(self).__name__} has no table")

    def values(self, codes: Tensor) -> Tensor:
        return self.table[codes.long()]


class TanQuantizer(_TableQuantizer):
    """DopQ-ViT's TanQ (arXiv 2408.03291), our reconstruction: its formula could not be read.

    With L = 2^bits - 1, code q is ``scale * tan(angle q / L) / tan(angle)``: dense near zero, where most probabilities
    are, the denser the nearer the angle is to a right one, and exact at the largest, which matter most.
    """

    def levels(self, parameters: TableParameters) -> Tensor:
        last = 2**self.bits - 1
        scale, angle = parameters.scale.double(), parameters.shape.double()
        return (
            scale
            * torch.tan(angle * torch.arange(last + 1, dtype=torch.float64, device=scale.device) / last)
            / torch.tan(angle)
        )

    def codes(self, x: Tensor) -> Tensor:
        return ops.tan_codes(x, self.scale, self.shape, self.bits).to(torch.int16)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        self._calibrate_once(x)
        return ops.fake_quantize_tan(x, self.scale, self.shape, self.table, self.bits, self.site)


class AdaLogQuantizer(_TableQuantizer):
    """AdaLog's adaptive-base logarithmic quantizer (ECCV 2024): code q is ``scale * 2^(-q / steps)``, the last zero.

    ``steps`` per octave are real; the published code searches 37 / n for n = 10 .. 138, with the scale 1. Its zero is
    one level too many, ours is the last of the 2^bits codes.
    """

    def levels(self, parameters: TableParameters) -> Tensor:
        steps = parameters.shape.double()
        codes = torch.arange(2**self.bits, dtype=torch.float64, device=steps.device)
        values = parameters.scale.double() * torch.exp2(-codes / steps)
        values[-1] = 0
        return values

    def codes(self, x: Tensor) -> Tensor:
        return ops.log2_codes(x, self.scale, self.bits, self.shape).to(torch.int16)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        self._calibrate_once(x)
        return ops.fake_quantize_adalog(x, self.scale, self.shape, self.table, self.bits, self.site)


def softmax_quantizer(kind: SoftmaxQuantizer, site: str, bits: int) -> Quantizer:
    """The quantizer of attention probabilities of one ``kind``, which is not "float"."""
    if kind == "uniform" or (kind == "by_bits" and bits >= UNIFORM_FROM):
        return UniformQuantizer(site, bits)
    if kind == "adalog":
        return AdaLogQuantizer(site, bits)
    if kind == "tan":
        return TanQuantizer(site, bits)
    return Log2Quantizer(site, bits, steps_per_octave=2 if kind == "log_sqrt2" else 1)


def softmax_search(quantizer: Quantizer, uniform: Callable[..., Search]) -> Search:
    """The search for ``quantizer``: ``uniform(bits, symmetric=...)`` for a uniform one, otherwise its own."""
    if isinstance(quantizer, Log2Quantizer):
        return log2_search(quantizer.bits, quantizer.steps_per_octave)
    if isinstance(quantizer, TanQuantizer):
        return _table_search(quantizer, _upper_quantiles, [0.3, 0.6, 0.9, 1.2, 1.3, 1.4, 1.45, 1.5, 1.53, 1.55])
    if isinstance(quantizer, AdaLogQuantizer):
        # A probability reaches 1, if not in the images of the calibration.
        return _table_search(quantizer, lambda x: x.new_ones(1), _ADALOG_STEPS)
    # An 8-bit operand of a product has no bias that could take its zero point.
    return uniform(quantizer.bits, symmetric=quantizer.bits == 8)


def adalog_search(quantizer: AdaLogQuantizer) -> Search:
    """The search for a tensor whose scale is free, as an activation's is; a probability's is 1."""
    return _table_search(quantizer, _upper_quantiles, _ADALOG_STEPS, elements=2**20)


def _upper_quantiles(x: Tensor) -> Tensor:
    return quantiles(x, PERCENTILES, largest=True)[:, 0]


def _table_search(
    quantizer: _TableQuantizer, scales: Callable[[Tensor], Tensor], shapes: list[float], elements: int = 2**24
) -> Search:
    """The scale, of ``scales`` of [1, n], and the shape with least squared error, of at most so many ``elements``."""

    def search(x: Tensor) -> TableParameters:
        x = x.reshape(1, -1)
        candidates = scales(x)
        x = sample(x, elements)
        best, best_error = None, math.inf
        for scale in candidates:
            for shape in shapes:
                found = TableParameters(scale, torch.full_like(scale, shape))
                quantizer.adopt(found)
                error = float((quantizer.values(quantizer.codes(x)) - x).square().mean())
                if error < best_error:
                    best, best_error = found, error
        assert best is not None  # noqa: S101 - there is at least one candidate, with a finite error
        return best

    return search
