"""Range finders: the scale and zero point that a tensor is quantized with.

All are vectorized over channels; none loops over them. The percentile finder is RepQ-ViT's (arXiv 2212.08254, its
published code): of a few percentiles, keep per channel the one whose quantized tensor has the lowest squared error.
Its lowest, 99.9 %, is where a normal distribution is best clipped at 5 bits; ``mse_finder`` has lower ones for fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from repq_deploy.quant import ops
from repq_deploy.quant.quantizers import UniformParameters

__all__ = [
    "PERCENTILES",
    "RANGES",
    "log2_finder",
    "minmax_finder",
    "mse_finder",
    "operand_finder",
    "percentile_finder",
    "quantiles",
    "sample",
    "weight_finder",
]

#: The published code lacks 1.0 and so clips even 8-bit tensors that need no clipping.
PERCENTILES = (0.999, 0.9999, 0.99999, 1.0)
#: Where a normal distribution is best clipped: about 99.5 % at 4 bits, 97.5 % at 3.
_FEW_BITS = 4
_LOWER = (0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9965, 0.998)
_TINY = 1e-8
#: A finder measures errors on at most this many elements of a tensor, evenly spread: what torch.quantile would take.
_SAMPLE = 2**24


def quantiles(x: Tensor, percentiles: tuple[float, ...], *, largest: bool) -> Tensor:
    """The upper (``largest``) or lower quantiles of each row, interpolated linearly as ``torch.quantile`` does.

    Only the tail that holds the quantiles is sorted, so there is no limit on the number of elements.

    Args:
        x: [rows, elements].
        percentiles: P values in (0.5, 1]; the lower quantile of p is the (1 - p) quantile.

    Returns:
        [P, rows].
    """
    count = x.shape[1]
    positions = [(count - 1) * (1 - p) for p in percentiles]  # distance from the end of the sorted row
    tail = _tail(x, min(count, math.ceil(max(positions)) + 1), largest=largest)
    found = []
    for position in positions:
        near, far = math.floor(position), math.ceil(position)
        found.append(torch.lerp(tail[:, near], tail[:, far], position - near))
    return torch.stack(found)


def _tail(x: Tensor, size: int, *, largest: bool) -> Tensor:
    """The ``size`` largest (or smallest) elements of each row, sorted.

    ``topk`` pairs every element with its index, 16 bytes each. One long row is therefore thinned out first, by a bound
    from a sample of it; the result is exact, as too tight a bound leaves too few elements and is then not used.
    """
    stride = x.shape[1] // _SAMPLE
    if len(x) == 1 and stride > 1 and size > 100 * stride:
        bound = x[:, ::stride].topk(2 * size // stride, largest=largest).values[0, -1]
        thinned = x[x >= bound] if largest else x[x <= bound]
        if thinned.numel() >= size:
            x = thinned[None]
    return x.topk(size, dim=1, largest=largest).values


def sample(rows: Tensor, elements: int = _SAMPLE) -> Tensor:
    """At most ``elements`` of ``rows`` [rows, n], from the same columns of each; the odd step between these meets every
    row of a matrix."""
    step = max(1, math.ceil(rows.numel() / elements))
    return rows[:, :: step | 1]


def _rows(x: Tensor, axis: int | None) -> Tensor:
    """``x`` as [channels, elements], one row for ``axis`` None."""
    return x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)


def _parameters(low: Tensor, high: Tensor, bits: int, *, symmetric: bool, spans_zero: bool) -> UniformParameters:
    """Scale and whole zero point of the range [low, high]."""
    levels = 2**bits - 1
    if symmetric:
        scale = (2 / levels) * torch.maximum(high.abs(), low.abs()).clamp_min(_TINY)
        return UniformParameters(scale, torch.full_like(scale, ops.centre(bits)))
    if spans_zero:
        low, high = low.clamp_max(0), high.clamp_min(0)
    # A channel that is constant gets a scale from its size, so that the constant is a representable code.
    size = torch.maximum(high.abs(), low.abs()).clamp_min(_TINY)
    scale = torch.where(high - low > 1e-6 * size, (high - low) / levels, size / 2 ** (bits - 1))
    return UniformParameters(scale, torch.round(-low / scale))


def _shaped(found: UniformParameters, axis: int | None) -> UniformParameters:
    return found if axis is not None else UniformParameters(found.scale.squeeze(0), found.zero_point.squeeze(0))


def minmax_finder(
    bits: int, *, axis: int | None = None, symmetric: bool = False, spans_zero: bool = True
) -> Callable[[Tensor], UniformParameters]:
    """A finder that takes the whole range of the tensor, or of each channel along ``axis``.

    ``spans_zero`` is that of ``percentile_finder``.
    """

    def find(x: Tensor) -> UniformParameters:
        low, high = torch.aminmax(_rows(x, axis), dim=1)
        return _shaped(_parameters(low, high, bits, symmetric=symmetric, spans_zero=spans_zero), axis)

    return find


def percentile_finder(
    bits: int,
    *,
    axis: int | None = None,
    symmetric: bool = False,
    spans_zero: bool = True,
    percentiles: tuple[float, ...] = PERCENTILES,
) -> Callable[[Tensor], UniformParameters]:
    """RepQ-ViT's finder: the percentile with the lowest squared error, chosen per channel along ``axis``.

    ``spans_zero`` widens a range to hold zero, so that codes minus zero point fit the integer they are stored in; a
    per-channel range that is folded into a layer norm afterwards does not need it.
    """

    def find(x: Tensor) -> UniformParameters:
        rows = _rows(x, axis)
        lows, highs = quantiles(rows, percentiles, largest=False), quantiles(rows, percentiles, largest=True)
        rows = sample(rows)
        best: UniformParameters | None = None
        best_error = torch.full((len(rows),), math.inf, device=x.device)
        for low, high in zip(lows, highs, strict=True):
            found = _parameters(low, high, bits, symmetric=symmetric, spans_zero=spans_zero)
            values = ops.uniform_codes(rows, found.scale, found.zero_point, bits, 0).mul_(found.scale[:, None])
            error = values.sub_(rows).square_().mean(dim=1)
            if best is None:
                best, best_error = found, error
                continue
            better = error < best_error
            best = UniformParameters(
                torch.where(better, found.scale, best.scale), torch.where(better, found.zero_point, best.zero_point)
            )
            best_error = torch.where(better, error, best_error)
        assert best is not None  # noqa: S101 - there is at least one percentile
        return _shaped(best, axis)

    return find


def mse_finder(
    bits: int, *, axis: int | None = None, symmetric: bool = False, spans_zero: bool = True
) -> Callable[[Tensor], UniformParameters]:
    """``percentile_finder``, at 4 bits and fewer with percentiles from 95 % on.

    From 5 bits on the lower percentiles would win only on tensors with a long tail. There the squared error is no
    guide, as they cut off the few values that matter most.
    """
    percentiles = (*_LOWER, *PERCENTILES) if bits <= _FEW_BITS else PERCENTILES
    return percentile_finder(bits, axis=axis, symmetric=symmetric, spans_zero=spans_zero, percentiles=percentiles)


#: The finders for uniform quantizers, by the name that a recipe gives them.
RANGES: dict[str, Callable[..., Callable[[Tensor], UniformParameters]]] = {
    "minmax": minmax_finder,
    "percentile": percentile_finder,
    "mse": mse_finder,
}


def weight_finder(bits: int, *, symmetric: bool, kind: str = "percentile") -> Callable[[Tensor], UniformParameters]:
    """The finder, called ``kind`` in ``RANGES``, of a scale for each output channel of a weight [out, ...]."""
    return RANGES[kind](bits, axis=0, symmetric=symmetric)


def operand_finder(bits: int, *, kind: str = "percentile") -> Callable[[Tensor], UniformParameters]:
    """The finder, called ``kind`` in ``RANGES``, for an operand of a product of two activations.

    It is symmetric at 8 bits: there is no bias that could take its zero point, which INT8 cannot hold.
    """
    return RANGES[kind](bits, symmetric=bits == 8)


def log2_finder(bits: int, steps_per_octave: int) -> Callable[[Tensor], Tensor]:
    """A finder of the scale of a logarithmic quantizer: the upper quantile with the lowest squared error."""

    def find(x: Tensor) -> Tensor:
        candidates = quantiles(x.reshape(1, -1), PERCENTILES, largest=True).clamp_min(_TINY)[:, 0]
        x = sample(x.reshape(1, -1))
        errors = []
        for scale in candidates:
            codes = ops.log2_codes(x, scale, bits, steps_per_octave)
            errors.append((ops.log2_values(codes, scale, bits, steps_per_octave) - x).square_().mean())
        return candidates[torch.stack(errors).argmin()]

    return find
