"""Exact rewrites of a quantized model that move scales and zero points to where engines want them.

None of them changes what the model computes: integer codes stay equal, and outputs are equal up to rounding. All
arithmetic is in float64; what is stored has the model's own type.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from repq_deploy.errors import BadInput
from repq_deploy.quant import ops
from repq_deploy.quant.layers import QuantConv2d, QuantLinear, add_to_bias
from repq_deploy.quant.quantizers import UniformParameters, UniformQuantizer

__all__ = ["center_zero_point", "fold_post_norm", "shift_input", "uniform_input"]


@torch.no_grad()
def fold_post_norm(norm: nn.LayerNorm, *linears: QuantLinear, target: Literal["mean", "median"] = "mean") -> None:
    """RepQ-ViT's scale reparameterization (arXiv 2212.08254, section 3.2) of a channel-wise input quantizer.

    The norm's output x, [..., D], is quantized per channel with (s_d, z_d). For any target scale t and any whole
    target zero point c, with ``r_d = s_d / t``::

        weight'_d = weight_d / r_d                      of the norm
        bias'_d   = bias_d / r_d + t (z_d - c)          of the norm
        W'_{:,d}  = r_d W_{:,d}
        bias'     = bias + sum_d W_{:,d} s_d (c - z_d)  of the linear

    gives the same codes with one scale t and zero point c for the tensor, and the same product. As in the paper t is
    the mean of s_d; DopQ-ViT takes the median. Any t gives the same result. The paper's c is the mean of z_d, which is
    not a whole number and adds a level. Here c = 2^(bits - 1), which is whole and makes the signed code symmetric, with
    ONNX zero point 0.

    Where tokens of zeros are put between the norm and the linear (windows padded to their size), the norm's bias is
    only divided. The linear adds the shift ``t (z_d - c)`` to its input, to padded tokens too, so that their codes are
    those of 0, as before.

    Args:
        norm: the layer norm.
        linears: all that read its output, with equal input quantizers. Their weight quantizers have to be calibrated
            again afterwards.
        target: what t is of the s_d.

    Raises:
        BadInput: the readers' input quantizers differ, as with other bits for one of them.
    """
    quantizer, *others = (uniform_input(linear) for linear in linears)
    if any(one.bits != quantizer.bits or not torch.equal(one.scale, quantizer.scale) for one in others):
        names = ", ".join(one.site for one in (quantizer, *others))
        raise BadInput(f"{names}: they read one layer norm and need the same bits")
    scale, zero_point = quantizer.scale.double(), quantizer.zero_point.double()
    target_scale = scale.mean() if target == "mean" else scale.median()
    target_zero_point = ops.centre(quantizer.bits)
    ratio = scale / target_scale
    _replace(norm, "weight", norm.weight.double() / ratio)
    shift = target_scale * (zero_point - target_zero_point)
    padded = any(linear.padded for linear in linears)
    _replace(norm, "bias", norm.bias.double() / ratio + (0 if padded else shift))
    stored = target_scale.to(quantizer.scale.dtype)
    for linear in linears:
        if padded:
            linear.shift = shift.to(linear.weight.dtype)
        weight = linear.weight.double()
        offset = weight @ (scale * (target_zero_point - zero_point))
        _replace(linear, "weight", weight * ratio)
        add_to_bias(linear, offset)
        of_input = uniform_input(linear)
        of_input.axis = None
        of_input.adopt(UniformParameters(stored, torch.full_like(stored, target_zero_point)))
        of_input.unfold = torch.stack([ratio, scale * (target_zero_point - zero_point)]).to(stored.dtype)


@torch.no_grad()
def center_zero_point(layer: QuantLinear | QuantConv2d, norm: nn.LayerNorm | None) -> None:
    """Move an asymmetric 8-bit input to zero point 128, so that its signed codes fill INT8 with ONNX zero point 0.

    With ``c = scale (zero_point - 128)`` the input becomes ``x + c`` and the bias ``bias - c sum(Q(W))``, the sum over
    everything but the output channel. Where ``norm`` is given, its bias takes the shift; otherwise, and where the layer
    is ``padded``, the layer adds it. Fewer bits need nothing: their codes minus zero point fit INT8 as they are.
    """
    quantizer = layer.input_quantizer
    if quantizer.bits < 8 or not isinstance(quantizer, UniformQuantizer):
        return
    centre = ops.centre(quantizer.bits)
    shift = quantizer.scale.double() * (quantizer.zero_point.double() - centre)
    if shift == 0:
        return
    shift_input(layer, shift, norm)
    quantizer.adopt(UniformParameters(quantizer.scale, torch.full_like(quantizer.scale, centre)))


@torch.no_grad()
def shift_input(layer: QuantLinear | QuantConv2d, shift: Tensor, norm: nn.LayerNorm | None = None) -> None:
    """Add ``shift`` (shape []) to a layer's input, and take its effect out of the output: ``bias - shift sum(Q(W))``.

    If ``norm`` is given, the norm's bias takes the shift; otherwise, or if the layer is ``padded``, the layer adds it.
    """
    offset = -shift.double() * layer.weight_quantizer(layer.weight).double().flatten(1).sum(dim=1)
    add_to_bias(layer, offset)
    if norm is not None and not layer.padded:
        _replace(norm, "bias", norm.bias.double() + shift)
    else:
        layer.shift = shift.to(layer.weight.dtype)


def uniform_input(layer: QuantLinear | QuantConv2d) -> UniformQuantizer:
    """The layer's input quantizer, which must be uniform: only uniform quantizers have a zero point and channels."""
    assert isinstance(layer.input_quantizer, UniformQuantizer)  # noqa: S101 - for the type checker
    return layer.input_quantizer


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    dtype: torch.dtype = module.weight.dtype  # type: ignore[assignment]
    setattr(module, name, nn.Parameter(value.to(dtype), requires_grad=False))
