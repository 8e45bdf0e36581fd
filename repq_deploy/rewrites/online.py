"""Rotations that the model makes while it runs, where no weight before the quantizer can absorb one.

Of q and k, where RoPE or a norm stands behind the projection: each token is turned by its position, or brought to a
length, and neither commutes with a rotation of the channels. Behind them q and k may be rotated alike, and the product
q k^T stays; it costs two products with a matrix [channels of a head]^2, which all heads share.

Of what fc2 reads in a gated MLP: a product of two functions of the image has outliers, and is made channel by channel.
Groups of channels are rotated, and the columns of fc2 that read them with them; a group of 64 costs a fraction of fc2
itself, all channels together would cost more than it.

Both are in float. They spread channels and values that are larger than others, which one scale for the tensor has to
reach. QuaRot (Ashkboos et al., arXiv 2404.00456) does so with Hadamard matrices; ours are random orthogonal ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from repq_deploy.quant.layers import QuantAttention, QuantLinear, RotatedOutput, rotate_groups
from repq_deploy.rewrites.rotations import random_rotation

__all__ = ["rotate_products_online", "rotate_qk_online"]

#: Channels of a group of a product, at most, and at least: where their number has no such divisor, it is left as it is.
_LARGEST_GROUP, _SMALLEST_GROUP = 64, 8


@torch.no_grad()
def rotate_qk_online(attentions: Iterable[QuantAttention], seed: int, *, below: int) -> None:
    """Rotate q and k behind whatever turns or norms them, where they have fewer than ``below`` bits, in place.

    Left out are attentions whose rotation weights absorb, see ``rewrites.rotations.rotate_heads``.
    """
    generator = torch.Generator().manual_seed(seed)
    for attention in attentions:
        if attention.site.qk_rotation_is_free or attention.q_quantizer.bits >= below:
            continue
        rotation = random_rotation(attention.head_dim, generator).to(attention.qkv.weight).contiguous()
        attention.rotate = RotatedOutput(attention.rotate, rotation)


@torch.no_grad()
def rotate_products_online(layers: Iterable[QuantLinear], seed: int, *, below: int) -> None:
    """Rotate the inputs of ``layers``, each of which reads the product of a gated MLP, in place.

    Left out are layers whose input has ``below`` bits or more.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        size = _group(layer.weight.shape[1])
        if layer.input_quantizer.bits >= below or layer.rotation is not None or size < _SMALLEST_GROUP:
            continue
        rotation = random_rotation(size, generator).to(layer.weight.device)
        layer.weight.copy_(rotate_groups(layer.weight.double(), rotation))
        layer.rotation = rotation.to(layer.weight.dtype).contiguous()


def _group(channels: int) -> int:
    """The largest number of channels, up to ``_LARGEST_GROUP``, that divides all of them."""
    return max(size for size in range(1, _LARGEST_GROUP + 1) if channels % size == 0)
