"""An exact rewrite at the end of a tapped model: what reads its features takes the rotation back itself.

A rotated residual stream leaves the model by a product with R transposed at each tap, so that features are those of the
float model (``rotations.rotate_residual_stream``). Where features are read by linears and convolutions only, as by the
projections of a detector's neck, the product moves into their weights, and costs nothing any more:
``W (R^T x) + b = (W R^T) x + b``, at each position of a convolution of any size, as its padding is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.errors import BadInput
from repq_deploy.models.taps import Tapped
from repq_deploy.quant.layers import RotatedInput

__all__ = ["fold_taps"]

Reader = nn.Linear | nn.Conv2d


@torch.no_grad()
def fold_taps(model: nn.Module, readers: Sequence[tuple[Reader, Sequence[int]]]) -> None:
    """Fold the rotations of ``model``'s taps into all that reads them, in place; afterwards features are rotated.

    Args:
        model: a tapped model, quantized or float, or one with such a model in it.
        readers: each layer that reads features, with the indexes of the blocks whose features are its input channels,
            one after the other: ``[(projection, (2, 5, 8, 11))]``. Every reader of a tap has to be among them.

    Raises:
        BadInput: ``model`` is not tapped, has no such tap, or applies a norm to its features; a tap that nothing here
            reads; or a layer of another width.
    """
    tapped = next((module for module in model.modules() if isinstance(module, Tapped)), None)
    if tapped is None:
        raise BadInput("fold_taps: expected a model with features; load it with features=(2, 5, 8, 11)")
    if tapped.features.norm:
        raise BadInput("fold_taps: a norm stands between the rotation and what reads the features; export without it")
    blocks = tapped.features.blocks
    read = {index for _, indexes in readers for index in indexes}
    if read != set(blocks):
        raise BadInput(f"fold_taps: readers of {sorted(read)}, expected some of each of the features {list(blocks)}")
    rotations = [_rotation(layer, indexes, tapped) for layer, indexes in readers]
    for (layer, _), rotation in zip(readers, rotations, strict=True):
        if rotation is not None:
            layer.weight.copy_(torch.einsum("oi...,ji->oj...", layer.weight.double(), rotation))
    for index in blocks:
        tapped.taps[str(index)] = nn.Identity()


def _rotation(layer: Reader, indexes: Sequence[int], tapped: Tapped) -> Tensor | None:
    """What stands before the input channels of ``layer``, [channels, channels]; None where nothing does."""
    taps: list[Any] = [tapped.taps[str(index)] for index in indexes]
    if not all(isinstance(tap, RotatedInput) for tap in taps):
        return None
    rotation = torch.block_diag(*(tap.rotation.double() for tap in taps))
    grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
    if layer.weight.shape[1] != len(rotation) or grouped:
        raise BadInput(
            f"fold_taps: a layer of {layer.weight.shape[1]} input channels{' in groups' * grouped}, expected "
            f"{len(rotation)}: those of the features {list(indexes)} one after the other"
        )
    return rotation.to(layer.weight.device)
