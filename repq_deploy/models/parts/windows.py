"""What timm's three classes of Swin Transformers have in common: stages of blocks that attend within windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from repq_deploy.models.sites import Stage
from repq_deploy.tasks import decided

__all__ = ["UnitLength", "pads_windows", "stages_of", "written_out"]


class UnitLength(nn.Module):
    """Cosine attention's norm: x / max(|x|, 1e-12) of each q or k [..., channels of a head]."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=-1)


def stages_of(
    model: Any, layers: str, *, embed: Callable[[Tensor], Tensor], classify: Callable[[Tensor], Tensor]
) -> tuple[Stage, ...]:
    """The forward pass in parts, with tokens [N, h, w, channels] between them.

    Args:
        layers: the name of the model's stages, each with a ``downsample`` and ``blocks``.
        embed: images to tokens.
        classify: tokens to the model's output.
    """
    found = [Stage("patch_embed", embed)]
    for index, stage in enumerate(getattr(model, layers)):
        found.append(Stage(f"{layers}.{index}.downsample", stage.downsample))
        found += [Stage(f"{layers}.{index}.blocks.{i}", block) for i, block in enumerate(stage.blocks)]
    return (*found, Stage("head", classify, task=decided(model.num_classes)))


def pads_windows(block: Any) -> bool:
    """Whether a block fills its last windows with tokens of zeros; one that takes images of any size does at some."""
    whole = all(side % window == 0 for side, window in zip(block.input_resolution, block.window_size, strict=True))
    return bool(block.dynamic_mask) or not whole


def written_out(block: Any) -> int:
    """How many numbers an export stores of a block's windows of N tokens: the position bias [heads, N, N] and, where
    windows are shifted, the mask [windows, N, N]."""
    mask = block.get_attn_mask() if block.dynamic_mask else block.attn_mask
    return block.attn.num_heads * block.window_area**2 + (0 if mask is None else mask.numel())
