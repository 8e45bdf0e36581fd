"""Relative position biases: what attention adds to its logits, looked up in a table by how far two tokens are apart.

The table grows with the grid of patches, (2 rows - 1) (2 columns - 1) entries for each head, beside a few for the class
token; an exported file stores it with one index for all blocks. Checkpoints of other image sizes have it in another
size, and timm resizes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from timm.layers import resize_rel_pos_bias_table
from torch import Tensor, nn

__all__ = ["grid_of_table", "resized_tables"]

_TABLE = "relative_position_bias_table"


def grid_of_table(model: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """The side of the square grid of patches that a checkpoint's tables are for.

    None where the model has no tables, where they have the model's own size, or no square grid's.
    """
    name = next((name for name in tensors if name.endswith(_TABLE) and name in model.state_dict()), None)
    if name is None:
        return None
    ours, theirs = model.state_dict()[name], tensors[name]
    if theirs.ndim != ours.ndim or theirs.shape[1:] != ours.shape[1:] or len(theirs) == len(ours):
        return None
    places = len(theirs) - _of_class_token(model, name)
    side = math.isqrt(max(places, 0))
    return (side + 1) // 2 if side * side == places and side % 2 else None


def resized_tables(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors with its tables, of square grids, for the grid of ``model``, as timm resizes them."""
    found = dict(tensors)
    for name, own in model.state_dict().items():
        if name.endswith(_TABLE) and name in found and len(found[name]) != len(own):
            window = _holder(model, name).window_size
            found[name] = resize_rel_pos_bias_table(found[name], new_window_size=window, new_bias_shape=own.shape)
    return found


def _holder(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name.rpartition(".")[0])


def _of_class_token(model: nn.Module, name: str) -> int:
    """How many entries of a table are beside those of the grid."""
    rows, columns = _holder(model, name).window_size
    return len(model.state_dict()[name]) - (2 * rows - 1) * (2 * columns - 1)
