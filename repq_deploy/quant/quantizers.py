"""Quantizers: modules that hold a scale, and turn numbers into integer codes and codes into values.

A quantizer knows nothing of how its scale is found: a step finds it (``quant.ranges``) and the quantizer adopts it. One
that is not ``enabled`` passes its input through, which is a method's way to leave weights in float for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repq_deploy.quant import ops

__all__ = [
    "Log2Quantizer",
    "Parameters",
    "Quantizer",
    "RangeFinder",
    "UniformParameters",
    "UniformQuantizer",
]


@dataclass(frozen=True)
class UniformParameters:
    """Scale (positive) and zero point (whole numbers, as floats), both of shape [] or [C]."""

    scale: Tensor
    zero_point: Tensor

    def ends(self, bits: int) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value."""
        return -self.zero_point * self.scale, (2**bits - 1 - self.zero_point) * self.scale


#: What a range finder finds, of the type that its quantizer adopts; for ``Log2Quantizer`` a scale.
Parameters = object
#: Maps a tensor to the parameters that it should be quantized with.
RangeFinder = Callable[[Tensor], Parameters]


class Quantizer(nn.Module):
    """Base of all quantizers.

    Args:
        site: name in the quantizer table, for example ``blocks.3.mlp.fc1.input``.
        bits: 2 to 8.
        kind: "uniform", "log2", "log_sqrt2", or a row of ``curves.CURVES``.

    Attributes:
        scale: float32; not finite until the quantizer is calibrated.
        axis: of a scale for each channel; None: one scale for the tensor.
    """

    scale: Tensor

    def __init__(self, site: str, bits: int, *, kind: str) -> None:
        super().__init__()
        self.site = site
        self.bits = bits
        self.kind = kind
        self.axis: int | None = None
        self.enabled = True
        self.register_buffer("scale", torch.tensor(float("nan")))

    @property
    def calibrated(self) -> bool:
        return bool(torch.isfinite(self.scale).all())

    @property
    def is_weight(self) -> bool:
        """Whether it is a weight's; all others are of activations."""
        return self.site.endswith(".weight")

    def adopt(self, found: Parameters) -> None:
        """Take over what a range finder found."""
        raise TypeError(f"{type(self).__name__} has no parameters")

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of ``x``, as the exported graph stores them (int8 for uniform, uint8 for log2)."""
        raise TypeError(f"{type(self).__name__} has no codes")

    def values(self, codes: Tensor) -> Tensor:
        """What ``codes`` stand for, float32."""
        raise TypeError(f"{type(self).__name__} has no codes")

    def quantized(self, x: Tensor) -> Tensor:
        """The values of the codes of ``x``, as one operator of ``ops``."""
        raise TypeError(f"{type(self).__name__} has no codes")

    def forward(self, x: Tensor) -> Tensor:
        return self.quantized(x) if self.enabled else x


class UniformQuantizer(Quantizer):
    """Uniform quantizer: ``scale * clip(round(x / scale), -zero_point, 2^bits - 1 - zero_point)``.

    ``axis`` None: one scale for the tensor. Otherwise ``scale`` and ``zero_point`` have shape [C], C the size of that
    axis, for example axis 0 of a weight [out, in]. The zero point is whole, so there are at most 2^bits levels.
    ``range_kind`` names the finder of ``quant.ranges.RANGES`` for steps that have to find the range again.

    Two buffers are for reports, and None where there is nothing to tell. ``unfold`` [2, C]: a fold has changed the
    input, and channel c without it would be ``unfold[0, c] * x + unfold[1, c]``. ``rounded_db`` []: the error that the
    rounding of a weight made, as ``noise.error_db``, since the rounded weight holds none.
    """

    zero_point: Tensor
    unfold: Tensor | None
    rounded_db: Tensor | None

    def __init__(self, site: str, bits: int, *, axis: int | None = None) -> None:
        super().__init__(site, bits, kind="uniform")
        self.axis = axis
        self.range_kind = "percentile"
        self.register_buffer("zero_point", torch.tensor(0.0))
        self.register_buffer("unfold", None)
        self.register_buffer("rounded_db", None)

    def adopt(self, found: Parameters) -> None:
        assert isinstance(found, UniformParameters)  # noqa: S101 - for the type checker
        self.scale = found.scale.detach().clone()
        self.zero_point = found.zero_point.detach().clone()

    def codes(self, x: Tensor) -> Tensor:
        return ops.uniform_codes(x, self.scale, self.zero_point, self.bits, self.axis).to(torch.int16)

    def values(self, codes: Tensor) -> Tensor:
        return ops.uniform_values(codes.float(), self.scale, self.axis)

    def quantized(self, x: Tensor) -> Tensor:
        return ops.fake_quantize(x, self.scale, self.zero_point, self.bits, self.axis, self.site)


class Log2Quantizer(Quantizer):
    """Logarithmic quantizer of attention probabilities (RepQ-ViT, FQ-ViT): ``scale * 2^(-q / steps_per_octave)``.

    ``steps_per_octave`` is 1 for log2, 2 for log-sqrt2. The last of the 2^bits codes is exact zero; the reference
    code of RepQ-ViT adds the zero to 2^bits powers and so has one level too many. ``scale`` has shape [].
    """

    def __init__(self, site: str, bits: int, *, steps_per_octave: int) -> None:
        super().__init__(site, bits, kind="log2" if steps_per_octave == 1 else "log_sqrt2")
        self.steps_per_octave = steps_per_octave

    def adopt(self, found: Parameters) -> None:
        assert isinstance(found, Tensor)  # noqa: S101 - for the type checker
        self.scale = found.detach().clone()

    def codes(self, x: Tensor) -> Tensor:
        return ops.log2_codes(x, self.scale, self.bits, self.steps_per_octave).to(torch.int16)

    def values(self, codes: Tensor) -> Tensor:
        return ops.log2_values(codes.float(), self.scale, self.bits, self.steps_per_octave)

    def quantized(self, x: Tensor) -> Tensor:
        return ops.fake_quantize_log2(x, self.scale, self.bits, self.steps_per_octave, self.site)
