"""Fake quantization as operators of the torch library ``repq``.

They are opaque to ``torch.export``, so that a trace keeps each quantizer as one node with its scale, and the ONNX side
decides what the node becomes. All take the name of their site, which travels with the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "centre",
    "curve_codes",
    "fake_quantize",
    "fake_quantize_curve",
    "fake_quantize_log2",
    "log2_codes",
    "log2_values",
    "uniform_codes",
    "uniform_values",
]


#: Elements of one piece of ``_by_pieces``: its temporaries stay in the cache, on a GPU in a part of its memory.
_PIECE, _PIECE_ON_GPU = 2**18, 2**26


def _by_pieces(values: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``values(x)`` of an elementwise function, a piece after the other.

    Attention probabilities of 32 images at 518 pixels take 1.4 GB: done at once, so does every intermediate result.
    """
    size = _PIECE if x.device.type == "cpu" else _PIECE_ON_GPU
    if x.numel() <= size or not x.is_contiguous():
        return values(x)
    found = torch.empty_like(x)
    for source, target in zip(x.view(-1).split(size), found.view(-1).split(size), strict=True):
        target.copy_(values(source))
    return found


def _along(parameter: Tensor, axis: int | None, ndim: int) -> Tensor:
    """A scale or zero point of shape [] or [C], shaped to broadcast along ``axis`` of a tensor of rank ``ndim``."""
    if axis is None:
        return parameter
    shape = [1] * ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def centre(bits: int) -> float:
    """The zero point in the middle of 2^bits codes, with which signed codes are symmetric and fill their integer."""
    return 2.0 ** (bits - 1)


def uniform_codes(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, axis: int | None = None) -> Tensor:
    """Signed codes ``n = clip(round(x / scale), -zero_point, 2^bits - 1 - zero_point)``, as floats, shape of ``x``.

    ``n = q - zero_point`` for the unsigned code q of the literature, so the value is ``scale * n``.
    """
    scale, zero_point = _along(scale, axis, x.ndim), _along(zero_point, axis, x.ndim)
    codes = (x / scale).round_()
    return torch.clamp(codes, -zero_point, 2**bits - 1 - zero_point)


def uniform_values(codes: Tensor, scale: Tensor, axis: int | None = None) -> Tensor:
    """``scale * n`` for signed codes n, floats of any shape."""
    return codes * _along(scale, axis, codes.ndim)


def log2_codes(x: Tensor, scale: Tensor, bits: int, steps_per_octave: int) -> Tensor:
    """Codes 0 .. 2^bits - 1, as floats: code q means ``scale * 2^(-q / steps_per_octave)``, the last one zero."""
    codes = (x / scale).log_().mul_(-steps_per_octave / 0.6931471805599453).round_()
    return codes.clamp_(0, 2**bits - 1)


def log2_values(codes: Tensor, scale: Tensor, bits: int, steps_per_octave: int) -> Tensor:
    """The values of ``log2_codes``.

    RepQ-ViT's identity turns log-sqrt2 into log2: with the whole exponent ``e = ceil(q / steps)`` and the parity
    ``p = steps * e - q``, ``2^(-q / steps) = 2^-e * 2^(p / steps)``. The first factor is exact in any float format.
    """
    exponent = torch.ceil(codes / steps_per_octave)
    parity = exponent * steps_per_octave - codes
    values = torch.exp2(-exponent) * torch.where(parity > 0, 2 ** (1 / steps_per_octave), 1.0) * scale
    return torch.where(codes == 2**bits - 1, 0.0, values)


def curve_codes(x: Tensor, divisor: Tensor, factor: Tensor, bits: int, function: str) -> Tensor:
    """Codes 0 .. 2^bits - 1, as floats: ``clip(round(factor * f(x / divisor)))``; f by the name of ONNX's operator."""
    return getattr(torch, f"{function.lower()}_")(x / divisor).mul_(factor).round_().clamp_(0, 2**bits - 1)


@torch.library.custom_op("repq::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, axis: int | None, site: str) -> Tensor:
    """Uniform fake quantization: ``scale * n`` with the codes of ``uniform_codes``."""
    if axis is not None:
        return uniform_codes(x, scale, zero_point, bits, axis).mul_(_along(scale, axis, x.ndim))
    return _by_pieces(lambda piece: uniform_codes(piece, scale, zero_point, bits).mul_(scale), x)


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, axis: int | None, site: str) -> Tensor:
    return torch.empty_like(x)


def _save_uniform(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, zero_point, ctx.bits, ctx.axis, _ = inputs
    ctx.save_for_backward(x, scale, zero_point, output)


def _uniform_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Straight through where x is not clipped; the scale's is LSQ's (arXiv 1902.08153): ``n - x / scale`` inside."""
    x, scale, zero_point, output = ctx.saved_tensors
    along = _along(scale, ctx.axis, x.ndim)
    low = (-0.5 - _along(zero_point, ctx.axis, x.ndim)) * along
    inside = (x >= low) & (x <= low + 2**ctx.bits * along)
    of_x = gradient * inside
    of_scale = None
    if ctx.needs_input_grad[1]:
        of_scale = (gradient * output - of_x * x) / along
        others = [axis for axis in range(x.ndim) if ctx.axis is None or axis != ctx.axis % x.ndim]
        of_scale = of_scale.sum(others)
    return of_x, of_scale, None, None, None, None


fake_quantize.register_autograd(_uniform_gradient, setup_context=_save_uniform)


@torch.library.custom_op("repq::fake_quantize_log2", mutates_args=())
def fake_quantize_log2(x: Tensor, scale: Tensor, bits: int, steps_per_octave: int, site: str) -> Tensor:
    """Logarithmic fake quantization of values in [0, 1] with 2^bits - 1 powers and zero: 2^bits levels."""
    return _by_pieces(
        lambda piece: log2_values(log2_codes(piece, scale, bits, steps_per_octave), scale, bits, steps_per_octave), x
    )


@fake_quantize_log2.register_fake
def _(x: Tensor, scale: Tensor, bits: int, steps_per_octave: int, site: str) -> Tensor:
    return torch.empty_like(x)


def _log2_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Straight through: probabilities are never clipped from above by more than the scale lets them."""
    return gradient, None, None, None, None


fake_quantize_log2.register_autograd(_log2_gradient)


@torch.library.custom_op("repq::fake_quantize_curve", mutates_args=())
def fake_quantize_curve(
    x: Tensor, divisor: Tensor, factor: Tensor, table: Tensor, bits: int, function: str, curve: str, site: str
) -> Tensor:
    """Fake quantization to the 2^bits values of ``table``, by ``curve_codes``; ``curve`` is the quantizer's kind."""
    return _by_pieces(lambda piece: table[curve_codes(piece, divisor, factor, bits, function).long()], x)


@fake_quantize_curve.register_fake
def _(
    x: Tensor, divisor: Tensor, factor: Tensor, table: Tensor, bits: int, function: str, curve: str, site: str
) -> Tensor:
    return torch.empty_like(x)


def _curve_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Straight through, as for logarithms."""
    return gradient, None, None, None, None, None, None, None


fake_quantize_curve.register_autograd(_curve_gradient)
