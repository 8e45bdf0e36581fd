"""The timm model that computes what a model of another library does, and how that one's tensors become its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from repq_deploy.models.libraries.names import Table, renamed

__all__ = ["Twin", "ratio"]


def _unchanged(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return tensors


@dataclass(frozen=True)
class Twin:
    """A timm model of the same mathematics.

    Attributes:
        timm_id: a timm model of the class; every size is in ``kwargs``.
        kwargs: arguments of the model's record (``ModelSpec``).
        table: their names of our tensors.
        prefix: what their names may begin with.
        ignored: patterns of their names that have no part in what is computed.
        change: of their tensors, without their prefix, before they are renamed.
        classes: the names of the model's outputs, in order; empty where they are not known.
        any_size: whether their images are of the size that their preprocessing makes, whatever the configuration says.
        antialias: how they resize position embeddings.
    """

    timm_id: str
    kwargs: dict[str, Any]
    table: Table
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    change: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = _unchanged
    classes: tuple[str, ...] = ()
    any_size: bool = False
    antialias: bool = False

    def tensors(self, theirs: Mapping[str, Tensor], model: Any, where: str) -> dict[str, Tensor]:
        """The tensors of another library for our ``model``, whose own may be without data; position embeddings are
        brought to its image size as that library does it.

        Raises:
            BadInput: some are missing, or there are some that nothing takes; ``where`` is for the message.
        """
        bare = {name.removeprefix(self.prefix): tensor for name, tensor in theirs.items()}
        expected: Mapping[str, Tensor] = model.state_dict()
        found = renamed(self.change(bare), expected, self.table, ignored=self.ignored, where=where)
        if "pos_embed" in expected and expected["pos_embed"].shape != found["pos_embed"].shape:
            found["pos_embed"] = self._resized(found["pos_embed"], len(expected["pos_embed"][0]), model)
        return found

    def _resized(self, positions: Tensor, tokens: int, model: Any) -> Tensor:
        """Position embeddings [1, any tokens, channels] of square images for so many ``tokens``; else as they are."""
        grid: tuple[int, int] = tuple(model.patch_embed.grid_size)
        prefix = tokens - grid[0] * grid[1]
        side = math.isqrt(max(positions.shape[1] - prefix, 0))
        if side * side != positions.shape[1] - prefix:
            return positions
        maps = positions[:, prefix:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        maps = functional.interpolate(maps, size=grid, mode="bicubic", align_corners=False, antialias=self.antialias)
        return torch.cat([positions[:, :prefix], maps.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def ratio(hidden: int, channels: int) -> float:
    """The number whose product with ``channels``, rounded down as timm does it, is ``hidden``."""
    found = hidden / channels
    while int(channels * found) < hidden:
        found = math.nextafter(found, math.inf)
    return found
