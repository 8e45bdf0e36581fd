"""Quantized forms of the layers a Vision Transformer multiplies with: linear, patch embedding, attention.

Each keeps its float parameters, under the names they had, and quantizes them and its inputs in ``forward``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.models.sites import AttentionParts, AttentionSite
from repq_deploy.quant.quantizers import Quantizer, UniformQuantizer
from repq_deploy.quant.softmax import LOG2_MAX, of_largest, softmax_kind, softmax_quantizer

__all__ = [
    "QuantAttention",
    "QuantConv2d",
    "QuantLinear",
    "RotatedInput",
    "RotatedOutput",
    "add_to_bias",
    "rotate_groups",
]


class _QuantLayer(nn.Module):
    """What a linear and a convolution share: float parameters, an optional ``shift`` of the input, two quantizers.

    The input's is a ``UniformQuantizer``, or after a GELU one of a logarithm (see ``repq_deploy.rewrites.gelu``).
    ``padded`` as in ``LinearSite``.
    """

    shift: Tensor | None
    input_quantizer: Quantizer

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        *,
        name: str,
        weight_bits: int,
        activation_bits: int,
        padded: bool = False,
    ) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self.padded = padded
        self.register_buffer("shift", None)
        self.input_quantizer = UniformQuantizer(f"{name}.input", activation_bits)
        self.weight_quantizer = UniformQuantizer(f"{name}.weight", weight_bits, axis=0)

    def quantized_input(self, x: Tensor) -> Tensor:
        """What the weights are multiplied with: ``Q(x + shift)``."""
        return self.input_quantizer(x if self.shift is None else x + self.shift)


class QuantLinear(_QuantLayer):
    """``y = Q(x R + shift) Q(W)^T + bias``, for ``x`` of shape [..., in].

    ``shift`` (shape [], or [in] of a ``padded`` layer) moves an asymmetric input to the middle zero point, or makes an
    input positive for a logarithm; ``bias`` takes its effect out again. It is None where the input needs no shift, or
    where the layer norm before the layer adds it. R is ``rotation`` (shape [size, size], or None) for each group of so
    many channels, see ``rewrites.online``.
    """

    rotation: Tensor | None

    def __init__(self, layer: nn.Linear, **options: Any) -> None:
        super().__init__(layer, **options)
        self.register_buffer("rotation", None)

    def quantized_input(self, x: Tensor) -> Tensor:
        """What the weights are multiplied with: ``Q(x R + shift)``."""
        return super().quantized_input(x if self.rotation is None else rotate_groups(x, self.rotation))

    def forward(self, x: Tensor) -> Tensor:
        # Written as a product and a sum, which every runtime's integer kernels match, whatever the rank of x.
        y = torch.matmul(self.quantized_input(x), self.weight_quantizer(self.weight).t())
        return y if self.bias is None else y + self.bias


class QuantConv2d(_QuantLayer):
    """A patch embedding's convolution with quantized input [N, C, H, W] and weight [out, C, kh, kw]; no padding."""

    def __init__(self, conv: nn.Conv2d, **options: Any) -> None:
        super().__init__(conv, **options)
        self.stride = conv.stride

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(
            self.quantized_input(x), self.weight_quantizer(self.weight), self.bias, stride=self.stride
        )


def rotate_groups(x: Tensor, rotation: Tensor) -> Tensor:
    """x [..., channels], of which each group of ``size`` neighbouring channels is multiplied by [size, size]."""
    return (x.unflatten(-1, (-1, len(rotation))) @ rotation).flatten(-2)


@torch.no_grad()
def add_to_bias(layer: nn.Linear | nn.Conv2d | QuantLinear | QuantConv2d, offset: Tensor) -> None:
    """Add ``offset`` [out] to a layer's bias, in float64; a layer without a bias gets one."""
    bias = offset.double() if layer.bias is None else layer.bias.double() + offset
    layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)


class RotatedOutput(nn.Module):
    """``module``, and behind it a product with ``rotation`` [channels, channels], which ``module`` cannot absorb.

    It stays in float: one such product for a whole model is less than a hundredth of its work.
    """

    rotation: Tensor

    def __init__(self, module: nn.Module, rotation: Tensor) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("rotation", rotation)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) @ self.rotation


class RotatedInput(RotatedOutput):
    """``module``, and before it a product with ``rotation`` [channels, channels], in float."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x @ self.rotation)


class QuantAttention(nn.Module):
    """Multi-head self-attention with quantized products: ``softmax(Q(q) Q(k)^T * scale + bias) -> Q(p) Q(v)``.

    With ``relative`` probabilities (softmax "log2_max") it is ``p Q(v) / sum(p)``, where ``p = Q(exp(logits - max))``:
    each row has all codes for itself, and what its codes sum to is made one again. SOLE (Wang et al., arXiv 2510.17189)
    does so in hardware, and there rounds the division too.

    A ``gate``, where there is one, multiplies what ``proj`` reads by the sigmoid of a linear of x.

    ``x`` is [B, N, C]. With windows (Swin) it is [windows * B, N, C], and shifted ones have a mask [windows, N, N] of 0
    and -100.

    Args:
        site: what is known of the float module that this one replaces.
        parts: what that module has beside its projections.
        qkv, proj: its projections, already quantized.
        bits: activation bits of q, k, the probabilities p, and v; ``site.qk_bits`` may ask for more of q and k.
        softmax: kind of the quantizer of p; "float" leaves q, k, p and v as they are.
    """

    position_bias: Tensor | None
    logit_scale: Tensor | None

    def __init__(
        self,
        site: AttentionSite,
        parts: AttentionParts,
        qkv: QuantLinear,
        proj: QuantLinear,
        *,
        bits: int,
        softmax: str,
    ) -> None:
        super().__init__()
        self.site = site
        self.head_dim: int = qkv.weight.shape[0] // (3 * site.heads)
        self.scale = 1.0 if isinstance(parts.scale, Tensor) else parts.scale
        self.qkv, self.proj = qkv, proj
        identity = nn.Identity()
        self.q_norm = parts.q_norm or identity
        self.k_norm = parts.k_norm or identity
        self.norm = parts.out_norm or identity
        self.rotate = parts.rotate or identity
        self.gate = parts.gate
        bias = parts.position_bias
        self.register_buffer("position_bias", None if bias is None else bias.detach().clone())
        # [heads, 1, 1], in place of ``scale``: the model's own, or because q and k of each head were given scales.
        scales = parts.scale.detach().clone() if isinstance(parts.scale, Tensor) else None
        self.register_buffer("logit_scale", scales)
        kind = softmax_kind(softmax, bits=bits, turned=not site.qk_rotation_is_free)
        self.quantized = kind != "float"
        self.relative = kind == LOG2_MAX
        if self.quantized:
            self.q_quantizer = UniformQuantizer(f"{site.name}.q", site.qk_bits(bits))
            self.k_quantizer = UniformQuantizer(f"{site.name}.k", site.qk_bits(bits))
            self.v_quantizer = UniformQuantizer(f"{site.name}.v", bits)
            self.p_quantizer = softmax_quantizer(kind, f"{site.name}.p", bits)
        else:
            self.q_quantizer = self.k_quantizer = self.v_quantizer = self.p_quantizer = identity  # type: ignore[assignment]

    @property
    def rotated_online(self) -> bool:
        """Whether q and k are rotated while the model runs, see ``rewrites.online``."""
        return isinstance(self.rotate, RotatedOutput)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        **positions: Any,
    ) -> Tensor:
        """``positions`` are tables that a library's block hands on; ``parts`` has brought them already."""
        del positions
        if attn_mask is not None or is_causal:
            raise ValueError("attention masks are quantized for Swin's windows only")
        batch, tokens, _ = x.shape
        heads = self.site.heads
        qkv = self.qkv(x).reshape(batch, tokens, 3, heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.rotate(self.q_norm(q)), self.rotate(self.k_norm(k))
        # k is transposed before its quantizer, so that Q/DQ stands right before the product.
        scale = self.scale if self.logit_scale is None else self.logit_scale
        logits = self.q_quantizer(q) @ self.k_quantizer(k.transpose(-2, -1)) * scale
        if self.position_bias is not None:
            logits = logits + self.position_bias
        if mask is not None:
            windows = mask.shape[0]
            logits = logits.view(-1, windows, heads, tokens, tokens) + mask[None, :, None]
            logits = logits.view(-1, heads, tokens, tokens)
        p = self.p_quantizer(of_largest(logits) if self.relative else logits.softmax(dim=-1))
        y = p @ self.v_quantizer(v)
        if self.relative:
            y = y / p.sum(dim=-1, keepdim=True)
        y = y.transpose(1, 2).reshape(batch, tokens, heads * self.head_dim)
        y = self.norm(y)
        return self.proj(y if self.gate is None else y * self.gate(x).sigmoid())
