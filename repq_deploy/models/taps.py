"""Features: the tokens behind some of a model's blocks, which it then gives in place of logits.

A model is tapped in place. Its modules keep their names, and so do its sites; what stands behind the last tap goes. The
new forward pass is the family's stages (``Family.stages``), so that every family that can lose its head can be tapped.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from repq_deploy.errors import BadInput
from repq_deploy.models.family import Family
from repq_deploy.models.sites import Stage
from repq_deploy.tasks import FEATURES

__all__ = ["LAYOUTS", "Features", "Tapped", "exits_of", "output_names", "tapped"]

LAYOUTS = ("tokens", "maps")
#: No model has more blocks (``bounds``).
_MOST_BLOCKS = 256
#: The submodule of a tapped model that holds one module a tap.
_TAPS = "taps"


@dataclass(frozen=True)
class Features:
    """Which features a model gives.

    Attributes:
        blocks: the indexes of the blocks behind which they are taken, rising; of the stages, for a model like Swin.
        layout: "tokens" [N, T, C], which begin with the class token and its like; "maps" [N, C, h, w] of patches only.
        norm: whether each passes the model's final norm.
    """

    blocks: tuple[int, ...]
    layout: Literal["tokens", "maps"] = "tokens"
    norm: bool = False

    def __post_init__(self) -> None:
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)):
            raise ValueError(f"features {list(self.blocks)}: expected indexes of blocks, in rising order")
        if not all(0 <= index < _MOST_BLOCKS for index in self.blocks):
            raise ValueError(f"features {list(self.blocks)}: expected indexes from 0 to {_MOST_BLOCKS - 1}")

    @property
    def names(self) -> tuple[str, ...]:
        """What the outputs are called."""
        return tuple(f"features_{index}" for index in self.blocks)


class Tapped(nn.Module):
    """What a tapped model's class is, besides the class that it was: images [N, 3, H, W] to a list of features."""

    family: ClassVar[Family]
    features: Features
    taps: nn.ModuleDict

    def forward(self, images: Tensor) -> list[Tensor]:
        *body, _ = self.family.stages(self)
        names = _tap_stages(body, self.features.blocks)
        _, (patch_height, patch_width) = self.family.image_sides(self)
        grid = images.shape[2] // patch_height, images.shape[3] // patch_width
        found, value = [], images
        for stage in body:
            value = stage.forward(value)
            if stage.name in names:
                found.append(_laid_out(self.taps[names[stage.name]](value), grid, self.features.layout))
        return found


def _laid_out(tokens: Tensor, grid: tuple[int, int], layout: str) -> Tensor:
    """Tokens [N, T, C], of which the last are those of the ``grid`` of patches, or [N, h, w, C] as Swin has them."""
    if layout == "tokens":
        return tokens if tokens.ndim == 3 else tokens.flatten(1, 2)
    if tokens.ndim == 4:
        return tokens.permute(0, 3, 1, 2)
    patches = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]
    return patches.transpose(1, 2).unflatten(2, grid)


def tapped(model: nn.Module, family: Family, features: Features) -> nn.Module:
    """Make ``model``, which is of ``family``, give ``features``, in place: same modules less those behind the last tap.

    Raises:
        BadInput: its family cannot lose its head, it has no such block, or no final norm where one is asked for.
    """
    if family.detach_head is None:
        raise BadInput(f"features cannot be taken of {family.words}; export the whole model")
    stages = _tap_stages(family.stages(model), features.blocks)
    missing = [index for index in features.blocks if str(index) not in stages.values()]
    if missing:
        count = len({found for stage in family.stages(model) if (found := _index(stage.name)) is not None})
        raise BadInput(f"features {missing[0]}: the model has the blocks 0 to {count - 1}")
    family.prepare(model)  # while it has all its blocks
    norm = family.detach_head(model)
    if features.norm and isinstance(norm, nn.Identity):
        raise BadInput(
            f"features with the final norm: {type(model).__name__} has no final norm that fits behind every block"
        )
    _cut(model, list(stages)[-1])
    kind = type(model)
    of_taps = replace(family, stages=_stages_of(family), detach_head=None)
    # As torch's parametrizations do: every method of the model stays, and only its forward pass is another.
    model.__class__ = type(kind.__name__, (Tapped, kind), {"family": of_taps})
    model.features = features  # type: ignore[assignment]
    passed = norm if features.norm else nn.Identity()
    # A copy for each tap: a table of tensors has no two names for one.
    model.taps = nn.ModuleDict({str(index): copy.deepcopy(passed) for index in features.blocks})
    return model.eval()


def exits_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the modules through which features leave a tapped model; none of any other."""
    return tuple(f"{_TAPS}.{index}" for index in model.features.blocks) if isinstance(model, Tapped) else ()


def output_names(model: nn.Module) -> tuple[str, ...]:
    """What the outputs of a model are called in files."""
    return model.features.names if isinstance(model, Tapped) else ("logits",)


def _stages_of(family: Family) -> Any:
    def stages(model: Tapped) -> tuple[Stage, ...]:
        *body, _ = family.stages(model)
        last = f"{_TAPS}.{model.features.blocks[-1]}"
        return (*body, Stage("features", model.get_submodule(last), (_TAPS,), task=FEATURES))

    return stages


def _index(name: str) -> int | None:
    """The first number in a stage's name: 3 of ``blocks.3``, 1 of ``layers.1.blocks.5``."""
    number = re.search(r"\d+", name)
    return None if number is None else int(number[0])


def _tap_stages(stages: Sequence[Stage], blocks: Sequence[int]) -> dict[str, str]:
    """The name of the last stage of each index in ``blocks``, with the index as ``taps`` is asked for it."""
    last = {index: stage.name for stage in stages if (index := _index(stage.name)) is not None}
    return {last[index]: str(index) for index in blocks if index in last}


def _cut(model: nn.Module, stage: str) -> None:
    """Take what follows ``stage``, such as ``blocks.3``, out of the list that holds it."""
    parts = stage.split(".")
    place = next(place for place, part in enumerate(parts) if _index(part) is not None)
    container: Any = model.get_submodule(".".join(parts[:place]))
    del container[list(container._modules).index(parts[place]) + 1 :]
