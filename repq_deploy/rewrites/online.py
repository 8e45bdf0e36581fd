"""A rotation of q and k that the model makes while it runs, where RoPE or a norm keeps weights from absorbing one.

Between the projection and the product q k^T each token is turned by its position, or brought to a length; neither
commutes with a rotation of the channels. Behind them q and k may be rotated alike, and the product stays; it costs two
products with a matrix [channels of a head]^2, in float, which all heads share. It spreads channels that are larger than
others, which one scale for the tensor has to reach.
QuaRot (Ashkboos et al., arXiv 2404.00456) does so with Hadamard matrices; ours is a random orthogonal one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from repq_deploy.quant.layers import QuantAttention, RotatedOutput
from repq_deploy.rewrites.rotations import random_rotation

__all__ = ["rotate_online"]


@torch.no_grad()
def rotate_online(attentions: Iterable[QuantAttention], seed: int, *, below: int) -> None:
    """Rotate q and k behind whatever turns or norms them, where they have fewer than ``below`` bits, in place.

    Left out are attentions whose rotation weights absorb, see ``rewrites.rotations.rotate_heads``.
    """
    generator = torch.Generator().manual_seed(seed)
    for attention in attentions:
        if attention.site.qk_rotation_is_free or attention.q_quantizer.bits >= below:
            continue
        rotation = random_rotation(attention.head_dim, generator).to(attention.qkv.weight).contiguous()
        attention.rotate = RotatedOutput(attention.rotate, rotation)
