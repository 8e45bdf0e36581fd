"""One scale per head for q, k and v, and the exact rewrites that turn these into one scale for the tensor.

Heads differ in range, and one scale for the tensor has to fit the widest head. With a scale per head (AdaLog,
APHQ-ViT), a step of q, k and v is as fine as the head allows. No engine has such scales, so they are folded. With a
head h, any scale t for the tensor, and ``r_h = s_h / t``:

* v: ``W_v,h`` and ``b_v,h`` are divided by ``r_h``, and the columns of proj's weight that read head h are multiplied by
  it. proj's input quantizer stands between the two, so its scales keep the proportions of v's (``proj_finder``).
* q and k: ``W_h`` and ``b_h`` are divided by ``r_h``, and attention's scale is multiplied by the ``r_h`` of both. It
  becomes one number per head, in the multiplication of the logits that was there before.
* k's zero points: a constant added to all of k adds the same to every logit of a row, which the softmax takes away. So
  k has a zero point per head, which its bias centres. q and v have no such freedom and are symmetric, and so is k that
  is turned by its token's position (RoPE): its bias is turned with it.

Codes stay equal, and outputs are equal up to rounding. The fold of v changes columns of a weight, so it is done before
weights are rounded, and in the float reference too. The fold of q and k multiplies rows, and with them the scales of
their weight quantizer; it is done last, as the reference's logits could not follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.quant import ops
from repq_deploy.quant.layers import QuantAttention, add_to_bias
from repq_deploy.quant.quantizers import UniformParameters, UniformQuantizer

__all__ = ["HEADS", "fold_query_key_heads", "fold_value_heads", "proj_finder"]

#: The axis of heads in q and v [B, heads, N, d] and in k transposed [B, heads, d, N].
HEADS = -3


def proj_finder(
    attention: QuantAttention, inner: Callable[[Tensor], UniformParameters]
) -> Callable[[Tensor], UniformParameters]:
    """The range finder of proj's input [..., channels]: one scale, which ``inner`` finds, times each head's share of
    the scales of v, which are found before it is called."""

    def find(x: Tensor) -> UniformParameters:
        ratio = attention.v_quantizer.scale / attention.v_quantizer.scale.mean()
        channels = ratio.repeat_interleave(attention.head_dim)
        found = inner(x / channels)
        return UniformParameters(found.scale * channels, found.zero_point.expand(channels.shape))

    return find


@torch.no_grad()
def fold_value_heads(attention: QuantAttention, reference: nn.Module | None = None) -> None:
    """Give v and proj's input one scale for the tensor; ``reference``, the float attention, is scaled alike.

    The weight quantizer of proj has to be calibrated again afterwards.
    """
    ratio = _ratio(attention.v_quantizer)
    channels = ratio.repeat_interleave(attention.head_dim)
    _divide_rows(attention.qkv, 2, channels)
    attention.proj.weight = _like(attention.proj.weight, attention.proj.weight.double() * channels)
    if reference is not None:
        theirs: Any = reference
        _divide_rows(theirs.qkv, 2, channels)
        theirs.proj.weight = _like(theirs.proj.weight, theirs.proj.weight.double() * channels)
    of_input = attention.proj.input_quantizer
    assert isinstance(of_input, UniformQuantizer)  # noqa: S101 - for the type checker
    _adopt(of_input, (of_input.scale.double() / channels).mean(), of_input.zero_point[0])
    _adopt(attention.v_quantizer, (attention.v_quantizer.scale.double() / ratio).mean(), _centre(attention.v_quantizer))


@torch.no_grad()
def fold_query_key_heads(attention: QuantAttention) -> None:
    """Give q and k one scale for the tensor, and attention's scale one number for each head."""
    given = attention.scale if attention.logit_scale is None else attention.logit_scale.flatten()
    factor = torch.as_tensor(given, dtype=torch.float64, device=attention.qkv.weight.device)
    for part, quantizer in enumerate((attention.q_quantizer, attention.k_quantizer)):
        ratio = _ratio(quantizer)
        scale = (quantizer.scale.double() / ratio).mean()
        _divide_rows(attention.qkv, part, ratio.repeat_interleave(attention.head_dim))
        shift = scale * (quantizer.zero_point.double() - _centre(quantizer))
        if shift.any():
            _add_to_rows(attention.qkv, part, shift.repeat_interleave(attention.head_dim))
        factor = factor * ratio
        _adopt(quantizer, scale, _centre(quantizer))
    attention.logit_scale = factor[:, None, None].to(attention.qkv.weight.dtype)


def _ratio(quantizer: UniformQuantizer) -> Tensor:
    """Each head's scale over the mean of all, [heads], float64."""
    scale = quantizer.scale.double()
    return scale / scale.mean()


def _centre(quantizer: UniformQuantizer) -> Tensor:
    return quantizer.scale.new_full((), ops.centre(quantizer.bits))


def _adopt(quantizer: UniformQuantizer, scale: Tensor, zero_point: Tensor) -> None:
    dtype, quantizer.axis = quantizer.scale.dtype, None
    quantizer.adopt(UniformParameters(scale.to(dtype), zero_point.to(dtype)))


def _divide_rows(qkv: Any, part: int, channels: Tensor) -> None:
    """Divide the outputs of ``part`` (0: q, 1: k, 2: v) of a projection; its weight keeps its codes."""
    divisor = torch.ones(3, len(channels), dtype=torch.float64, device=channels.device)
    divisor[part] = channels
    divisor = divisor.flatten()
    qkv.weight = _like(qkv.weight, qkv.weight.double() / divisor[:, None])
    if qkv.bias is not None:
        qkv.bias = _like(qkv.bias, qkv.bias.double() / divisor)
    quantizer = getattr(qkv, "weight_quantizer", None)
    if quantizer is not None and quantizer.calibrated:
        quantizer.scale = (quantizer.scale.double() / divisor).to(quantizer.scale.dtype)


def _add_to_rows(qkv: Any, part: int, channels: Tensor) -> None:
    """Add to the outputs of ``part`` of a projection."""
    offset = torch.zeros(3, len(channels), dtype=torch.float64, device=channels.device)
    offset[part] = channels
    add_to_bias(qkv, offset.flatten())


def _like(parameter: Tensor, value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(parameter.dtype), requires_grad=False)
