"""Quantizers whose levels lie on a curve, one row of ``CURVES`` each: a new one is a new row.

With ``last = 2^bits - 1``, the code of x is ``clip(round(factor * f(x / divisor)), 0, last)``, and the value of a code
is read from a table that is computed once, in float64, so that every runtime has the same values to the last bit. The
values are no multiples of one scale, so the product that reads them multiplies floats.

Logarithms with a whole number of steps per octave have a quantizer of their own (``quantizers.Log2Quantizer``): their
values are powers of two, times sqrt2 where there are two steps, which FP8 and bytes hold exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repq_deploy.quant import ops
from repq_deploy.quant.quantizers import Parameters, Quantizer, RangeFinder
from repq_deploy.quant.ranges import PERCENTILES, quantiles, sample

__all__ = ["CURVES", "Curve", "CurveParameters", "CurveQuantizer", "curve_finder"]


@dataclass(frozen=True)
class CurveParameters:
    """``scale``, the largest value, and ``bend``, which the row gives its meaning; both float32 of shape []."""

    scale: Tensor
    bend: Tensor


@dataclass(frozen=True)
class Curve:
    """One kind of quantizer of numbers from 0 on.

    Attributes:
        name: as recipes and tables of quantizers call it.
        function: f, by the name of its ONNX operator, one of ``export.domain.CURVE_FUNCTIONS``.
        constants: maps scale, bend and ``last`` to ``divisor`` and ``factor``; scale and bend are float64 of shape [].
        values: maps scale, bend, the codes 0 .. last in float64, and ``last`` to the value of each code.
        bends: what a range finder tries.
        probability_scale: the scale of attention probabilities; None: what fits best of a few upper quantiles.
    """

    name: str
    function: str
    constants: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    values: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    bends: tuple[float, ...]
    probability_scale: float | None = None


CURVES: dict[str, Curve] = {
    curve.name: curve
    for curve in (
        # AdaLog (ECCV 2024, arXiv 2407.12951): ``scale * 2^(-q / bend)``. The published code tries 37 / n steps an
        # octave, n = 10 .. 138, with the scale 1 for probabilities, which reach 1 if not in the images of the
        # calibration; ours tries every fourth n. Its zero is one level too many, ours is the last of the 2^bits codes.
        Curve(
            "adalog",
            "Log",
            constants=lambda scale, bend, last: (scale, -bend / math.log(2)),
            values=lambda scale, bend, codes, last: torch.where(codes == last, 0, scale * torch.exp2(-codes / bend)),
            bends=tuple(37 / n for n in range(10, 139, 4)),
            probability_scale=1.0,
        ),
        # DopQ-ViT's TanQ (arXiv 2408.03291), our reconstruction, as its formula could not be read: dense near zero,
        # where most probabilities are, the denser the nearer the angle ``bend`` is to a right one, and exact at the
        # largest, which matter most.
        Curve(
            "tan",
            "Atan",
            constants=lambda scale, bend, last: (scale / torch.tan(bend), last / bend),
            values=lambda scale, bend, codes, last: scale * torch.tan(bend * codes / last) / torch.tan(bend),
            bends=(0.3, 0.6, 0.9, 1.2, 1.3, 1.4, 1.45, 1.5, 1.53, 1.55),
        ),
    )
}


class CurveQuantizer(Quantizer):
    """A quantizer of one row of ``CURVES``; ``scale``, ``divisor``, ``factor`` have shape [], ``table`` [2^bits]."""

    divisor: Tensor
    factor: Tensor
    table: Tensor

    def __init__(self, site: str, bits: int, curve: Curve) -> None:
        super().__init__(site, bits, kind=curve.name)
        self.curve = curve
        self.register_buffer("divisor", torch.tensor(1.0))
        self.register_buffer("factor", torch.tensor(1.0))
        self.register_buffer("table", torch.zeros(2**bits))

    def adopt(self, found: Parameters) -> None:
        assert isinstance(found, CurveParameters)  # noqa: S101 - for the type checker
        last = 2**self.bits - 1
        scale, bend = found.scale.detach().double(), found.bend.detach().double()
        codes = torch.arange(last + 1, dtype=torch.float64, device=scale.device)
        self.scale = found.scale.detach().clone()
        self.divisor, self.factor = (value.float() for value in self.curve.constants(scale, bend, last))
        self.table = self.curve.values(scale, bend, codes, last).float()

    def codes(self, x: Tensor) -> Tensor:
        return ops.curve_codes(x, self.divisor, self.factor, self.bits, self.curve.function).to(torch.int16)

    def values(self, codes: Tensor) -> Tensor:
        return self.table[codes.long()]

    def quantized(self, x: Tensor) -> Tensor:
        return ops.fake_quantize_curve(
            x, self.divisor, self.factor, self.table, self.bits, self.curve.function, self.kind, self.site
        )


def curve_finder(quantizer: CurveQuantizer, *, of_probabilities: bool) -> RangeFinder:
    """A finder of the scale and bend with the least squared error.

    Args:
        quantizer: what it is for; it is used to try them.
        of_probabilities: whether the tensor holds attention probabilities; otherwise its scale is free.
    """
    curve, largest = quantizer.curve, 2**24 if of_probabilities else 2**20

    def find(x: Tensor) -> CurveParameters:
        x = x.reshape(1, -1)
        fixed = curve.probability_scale if of_probabilities else None
        scales = quantiles(x, PERCENTILES, largest=True)[:, 0] if fixed is None else x.new_full((1,), fixed)
        x = sample(x, largest)
        best, best_error = None, math.inf
        for scale in scales:
            for bend in curve.bends:
                found = CurveParameters(scale, torch.full_like(scale, bend))
                quantizer.adopt(found)
                error = float((quantizer.values(quantizer.codes(x)) - x).square().mean())
                if error < best_error:
                    best, best_error = found, error
        assert best is not None  # noqa: S101 - there is at least one candidate, with a finite error
        return best

    return find
