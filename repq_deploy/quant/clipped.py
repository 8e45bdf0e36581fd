"""Clipped channel-wise ranges of post-norm activations, for the fold into the layer norm (Mix-QViT, arXiv 2501.06357).

A post-norm input is quantized per channel and folded into one scale; the ratio ``r_d`` of channel d's scale to that one
then multiplies column d of the weight (``folds.fold_post_norm``). A few channels that are much wider than the rest
therefore widen every row of the weight and cost it precision. Clipping their scales at kappa times the median trades a
larger error of these channels for a smaller one of the weight::

    s_d <- min(s_d, kappa * median(s))

The paper says that ranges are clipped, not by which rule; this one, and the choice of kappa by the error of the layer's
output, are our reconstruction. So is the least kappa that is tried: layer by layer stronger clipping has the smaller
error, but the model as a whole does not (a ViT-S/14 lost accuracy at 1 to 3 medians).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from repq_deploy.quant import ops
from repq_deploy.quant.quantizers import UniformParameters
from repq_deploy.quant.ranges import percentile_finder

__all__ = ["KAPPAS", "clip_channels", "clipped_channel_finder"]

#: What the finder tries; infinity clips nothing.
KAPPAS = (4.0, 6.0, 8.0, math.inf)
_ROWS = 2048  # tokens that errors are measured on


def clip_channels(found: UniformParameters, x: Tensor, kappa: float, bits: int) -> UniformParameters:
    """Cap per-channel scales [C] at ``kappa`` times their median, and shrink each capped range around its mean.

    Args:
        x: the tensor [..., C] that ``found`` is of.
    """
    scale = found.scale.clamp_max(kappa * float(found.scale.median()))
    low, high = found.ends(bits)
    mean = x.reshape(-1, x.shape[-1]).mean(dim=0).clamp(low, high)
    clipped_low = mean - (mean - low) * (scale / found.scale)
    return UniformParameters(
        scale, torch.where(scale < found.scale, torch.round(-clipped_low / scale), found.zero_point)
    )


def clipped_channel_finder(
    bits: int, *, weight: Tensor, weight_bits: int, symmetric: bool
) -> Callable[[Tensor], UniformParameters]:
    """A finder of the channel-wise parameters of a post-norm input, axis -1, to be folded afterwards.

    The cap is the one of ``KAPPAS`` that gives the layer's output the least error, its weight quantized after the fold.

    Args:
        weight: the float weight of the linear layer, or of all that read the norm, one below the other: [out, C].
        weight_bits, symmetric: the bits of the weight's quantizer, and whether it is symmetric.
    """
    unclipped = percentile_finder(bits, axis=-1, spans_zero=False)

    def find(x: Tensor) -> UniformParameters:
        found = unclipped(x)
        rows = x.reshape(-1, x.shape[-1])
        rows = rows[:: max(1, len(rows) // _ROWS)]
        candidates = [clip_channels(found, x, each, bits) for each in KAPPAS]
        errors = [_output_error(rows, each, bits, weight, weight_bits, symmetric) for each in candidates]
        return candidates[min(range(len(errors)), key=errors.__getitem__)]

    return find


def _output_error(
    rows: Tensor, found: UniformParameters, bits: int, weight: Tensor, weight_bits: int, symmetric: bool
) -> float:
    """Squared error of ``rows W^T`` with both quantized as after ``fold_post_norm``.

    The fold centres the codes, and corrects the bias for it with the float weight; so its error is of centred values.
    """
    ratio = found.scale / found.scale.mean()
    folded = weight * ratio
    quantizer = percentile_finder(weight_bits, axis=0, symmetric=symmetric)(folded)
    codes = ops.uniform_codes(folded, quantizer.scale, quantizer.zero_point, weight_bits, 0)
    quantized = ops.uniform_values(codes, quantizer.scale, 0) / ratio
    values = ops.uniform_values(ops.uniform_codes(rows, found.scale, found.zero_point, bits, -1), found.scale, -1)
    shift = found.scale * (found.zero_point - ops.centre(bits))
    error = (values + shift) @ quantized.t() - (rows + shift) @ weight.t()
    return float(error.square().mean())
