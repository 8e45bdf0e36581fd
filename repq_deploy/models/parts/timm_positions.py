"""Learned position embeddings of timm's encoders, [1, prefix + patches, channels], at another image size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor

__all__ = ["own_image_size", "resized"]


def own_image_size(model: Any, tensors: Mapping[str, Tensor]) -> int | None:
    """``Family.own_image_size`` of a model with ``pos_embed`` and one of timm's embeddings."""
    patches = _patches(model, tensors)
    if patches is None:
        return None
    side = math.isqrt(max(patches, 0))
    return side * int(model.patch_embed.feat_ratio()) if side * side == patches else None


def resized(model: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``Family.resized`` of such a model."""
    embed = model.patch_embed
    prefix = model.pos_embed.shape[1] - embed.num_patches
    positions = resample_abs_pos_embed(tensors["pos_embed"], list(embed.grid_size), num_prefix_tokens=prefix)
    return {**tensors, "pos_embed": positions}


def _patches(model: Any, tensors: Mapping[str, Tensor]) -> int | None:
    """The patches of position embeddings that differ from the model's in their number only."""
    ours, theirs = getattr(model, "pos_embed", None), tensors.get("pos_embed")
    if ours is None or theirs is None or theirs.ndim != 3 or ours.shape[::2] != theirs.shape[::2]:
        return None
    if ours.shape[1] == theirs.shape[1]:
        return None
    return int(theirs.shape[1] - (ours.shape[1] - model.patch_embed.num_patches))
