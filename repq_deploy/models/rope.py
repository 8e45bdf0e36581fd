"""Rotation by position (RoPE, Su et al., arXiv 2104.09864) as a module with the tables of one image size.

Two channels of a head are a point in a plane, which each token turns by an angle of its own. Libraries differ in which
channels are partners: neighbours ("interleaved"), or one of each half of the head. Here both are one form::

    y = x * cos + x[..., partner] * sin

where sin carries the sign of the rotation, and tokens that stay where they are, such as a class token, have cos 1 and
sin 0. So a graph has two products and a sum for all tokens at once, and no slices of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Rope"]


class Rope(nn.Module):
    """Turns q or k [B, heads, tokens, channels of a head].

    Args:
        sin, cos: [patches, channels] for all heads, or [heads, patches, channels]; both partners have the same angle.
        prefix: how many tokens stand before the patches and are not turned.
        half: whether a channel's partner is in the other half of the head, and not its neighbour.
    """

    sin: Tensor
    cos: Tensor
    partner: Tensor

    def __init__(self, sin: Tensor, cos: Tensor, *, prefix: int, half: bool) -> None:
        super().__init__()
        channels = sin.shape[-1]
        order = torch.arange(channels, device=sin.device)
        partner = (order + channels // 2) % channels if half else order ^ 1
        # The first of two partners gets -sin times the second, the second +sin times the first.
        sign = torch.where(partner > order, -1.0, 1.0).to(sin.dtype)
        still = (*sin.shape[:-2], prefix, channels)
        self.register_buffer("sin", torch.cat([sin.new_zeros(still), sin.detach() * sign], dim=-2))
        self.register_buffer("cos", torch.cat([cos.new_ones(still), cos.detach()], dim=-2))
        self.register_buffer("partner", partner, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.cos + torch.index_select(x, -1, self.partner) * self.sin
