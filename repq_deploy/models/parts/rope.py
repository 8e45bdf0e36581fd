"""Rotation by position (RoPE, Su et al., arXiv 2104.09864) in one form, with the tables of one image size.

Two channels of a head are a point in a plane, which each token turns by an angle of its own. Libraries differ in which
channels are partners: neighbours ("interleaved"), or the same places of a head's two halves. Reordering the rows of q's
and k's projections alike makes halves of neighbours and keeps every q k^T. Runtimes move halves at once, and neighbours
one by one: of what turns q and k of DINOv3-S, neighbours take two to five times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FixedTable", "Rope", "halves_as_partners"]


class Rope(nn.Module):
    """Turns q or k [B, heads, tokens, channels of a head]: ``y = x * cos + (x with its halves exchanged) * sin``.

    ``sin`` carries the sign of the rotation. Tokens that stay as they are, such as a class token, have cos 1 and sin 0,
    so that a graph has two products and a sum for all tokens, and takes none apart.

    Args:
        table: sines, then cosines, [patches, 2 * channels] for all heads or [heads, patches, 2 * channels], of halves.
        prefix: how many tokens stand before the patches and are not turned.
    """

    sin: Tensor
    cos: Tensor

    def __init__(self, table: Tensor, *, prefix: int) -> None:
        super().__init__()
        sin, cos = table.detach().chunk(2, dim=-1)
        first, second = sin.chunk(2, dim=-1)
        still = (*sin.shape[:-2], prefix, sin.shape[-1])
        self.register_buffer("sin", torch.cat([sin.new_zeros(still), torch.cat([-first, second], dim=-1)], dim=-2))
        self.register_buffer("cos", torch.cat([cos.new_ones(still), cos], dim=-2))

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * self.cos + torch.cat([x[..., half:], x[..., :half]], dim=-1) * self.sin


class FixedTable(nn.Module):
    """What stands in for a timm model's own module of sines and cosines, at the image size that it has.

    Args:
        table: [..., patches, 2 * channels of a head], as ``halves_as_partners`` gives it.
    """

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.detach().clone(), persistent=False)

    def get_embed(self, shape: Any = None) -> Tensor:
        del shape
        return self.table


@torch.no_grad()
def halves_as_partners(attention: Any, table: Tensor) -> Tensor:
    """Let halves be partners in a timm attention that has one linear ``qkv``; in place, it computes the same.

    Args:
        table: the sines and cosines that it was called with, [..., patches, 2 * channels of a head].

    Returns:
        Those to call it with from now on.
    """
    if attention.rotate_half:
        return table
    heads, size = attention.num_heads, attention.head_dim
    order = torch.arange(size, device=table.device).unflatten(0, (-1, 2)).T.flatten()
    for name, parameter in attention.qkv.named_parameters():
        rows = parameter.unflatten(0, (3, heads, size))
        turned = torch.cat([rows[:2, :, order], rows[2:]]).flatten(0, 2)
        setattr(attention.qkv, name, nn.Parameter(turned, requires_grad=False))
    for norm in (attention.q_norm, attention.k_norm):
        for name, parameter in norm.named_parameters():
            setattr(norm, name, nn.Parameter(parameter[order], requires_grad=False))
    attention.rotate_half = True
    return table.unflatten(-1, (2, size))[..., order].flatten(-2)
