"""Quantizers: modules that hold a scale, know their codes, and learn the scale from the first tensor they see.

A quantizer starts *pending*, with a search that maps a tensor to parameters. Its first call runs the search, then
quantizes, so one forward pass calibrates a whole model with every upstream site already quantized, as RepQ-ViT does.
One that is not ``enabled`` passes its input through: a method's way to leave weights in float for a while.
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
    "Search",
    "TableParameters",
    "UniformParameters",
    "UniformQuantizer",
]


@dataclass(frozen=True)
class UniformParameters:
    """Scale (positive) and zero point (whole numbers, as floats), both of shape [] or [C]."""

    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True)
class TableParameters:
    """Scale and shape (an angle, or steps per octave), both [], of a quantizer whose values stand in a table."""

    scale: Tensor
    shape: Tensor


#: What a search finds; a bare tensor is a scale.
Parameters = UniformParameters | TableParameters | Tensor
Search = Callable[[Tensor], Parameters]


class Quantizer(nn.Module):
    """Base: the site's name, the bits, and the pending search.

    Args:
        site: name in the quantizer table, for example ``blocks.3.mlp.fc1.input``.
        bits: 2 to 8.
    """

    scale: Tensor

    def __init__(self, site: str, bits: int) -> None:
        super().__init__()
        self.site = site
        self.bits = bits
        self.search: Search | None = None
        self.enabled = True
        self.register_buffer("scale", torch.tensor(float("nan")))

    @property
    def calibrated(self) -> bool:
        return bool(torch.isfinite(self.scale).all())

    def adopt(self, found: Parameters) -> None:
        """Take over what a search found."""
        raise TypeError(f"{type(self).__name__} has no parameters")

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of ``x``, as the exported graph stores them (int8 for uniform, uint8 for log2)."""
        raise TypeError(f"{type(self).__name__} has no codes")

    def values(self, codes: Tensor) -> Tensor:
        """What ``codes`` stand for, float32."""
        raise TypeError(f"{type(self).__name__} has no codes")

    def _calibrate_once(self, x: Tensor) -> None:
        if self.search is not None:
            search, self.search = self.search, None
            with torch.no_grad():
                self.adopt(search(x))


class UniformQuantizer(Quantizer):
    """Uniform quantizer: ``scale * clip(round(x / scale), -zero_point, 2^bits - 1 - zero_point)``.

    ``axis`` None: one scale for the tensor. Otherwise ``scale`` and ``zero_point`` have shape [C], C the size of that
    axis, for example axis 0 of a weight [out, in]. The zero point is whole, so there are at most 2^bits levels.
    ``range_kind`` names the search of ``repq_deploy.quant.ranges`` for steps that have to search again.
    """

    zero_point: Tensor

    def __init__(self, site: str, bits: int, *, axis: int | None = None) -> None:
        super().__init__(site, bits)
        self.axis = axis
        self.range_kind = "percentile"
        self.register_buffer("zero_point", torch.tensor(0.0))

    def adopt(self, found: Parameters) -> None:
        assert isinstance(found, UniformParameters)  # noqa: S101 - for the type checker
        self.scale = found.scale.detach().clone()
        self.zero_point = found.zero_point.detach().clone()

    def codes(self, x: Tensor) -> Tensor:
        return ops.uniform_codes(x, self.scale, self.zero_point, self.bits, self.axis).to(torch.int16)

    def values(self, codes: Tensor) -> Tensor:
        return ops.uniform_values(codes.float(), self.scale, self.axis)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        self._calibrate_once(x)
        return ops.fake_quantize(x, self.scale, self.zero_point, self.bits, self.axis, self.site)


class Log2Quantizer(Quantizer):
    """Logarithmic quantizer of attention probabilities (RepQ-ViT, FQ-ViT): ``scale * 2^(-q / steps_per_octave)``.

    ``steps_per_octave`` is 1 for log2, 2 for log-sqrt2. The last of the 2^bits codes is exact zero; the reference
    code of RepQ-ViT adds the zero to 2^bits powers and so has one level too many. ``scale`` has shape [].
    """

    def __init__(self, site: str, bits: int, *, steps_per_octave: int) -> None:
        super().__init__(site, bits)
        self.steps_per_octave = steps_per_octave

    def adopt(self, found: Parameters) -> None:
        assert isinstance(found, Tensor)  # noqa: S101 - for the type checker
        self.scale = found.detach().clone()

    def codes(self, x: Tensor) -> Tensor:
        return ops.log2_codes(x, self.scale, self.bits, self.steps_per_octave).to(torch.int16)

    def values(self, codes: Tensor) -> Tensor:
        return ops.log2_values(codes.float(), self.scale, self.bits, self.steps_per_octave)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        self._calibrate_once(x)
        return ops.fake_quantize_log2(x, self.scale, self.bits, self.steps_per_octave, self.site)
