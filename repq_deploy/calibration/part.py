"""A part of a bigger model: which it is, and what it is given while the whole model runs over the images."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.calibration.run import BATCH
from repq_deploy.errors import BadInput
from repq_deploy.hooks import hooks
from repq_deploy.models.families import known_family, stages
from repq_deploy.models.loading import is_getter
from repq_deploy.models.sites import Sites

__all__ = ["Given", "find_part", "inner_sites", "inputs_of_part"]

#: Names in a message.
_NAMED = 4


def find_part(model: nn.Module, pattern: str) -> str:
    """The path of the submodule of ``model`` that ``pattern`` means: a path, or one with ``*`` and ``?``.

    Raises:
        BadInput: none that can be quantized fits, or more than one.
    """
    modules = dict(model.named_modules())
    if pattern in modules and pattern:
        return pattern
    encoders = [name for name, module in modules.items() if name and (known_family(module) or is_getter(module))]
    # What is built around an encoder of a library's is no encoder beside it.
    around = {
        name
        for name in encoders
        if not is_getter(modules[name]) and any(other.startswith(f"{name}.") for other in encoders)
    }
    encoders = [name for name in encoders if name not in around]
    found = [name for name in encoders if fnmatch.fnmatchcase(name, pattern)]
    outermost = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outermost) == 1:
        return outermost[0]
    if outermost:
        raise BadInput(f"part {pattern!r}: means {', '.join(outermost[:_NAMED])}; name one of them")
    there = f"; those of a supported family are {', '.join(encoders[:_NAMED])}" if encoders else ""
    raise BadInput(f"part {pattern!r}: the model has no submodule of that name{there}")


@dataclass(frozen=True)
class Given:
    """What a part is given: images [N, 3, H, W]; and whether the model calls it as a whole, so that nothing but its
    outputs is read of it."""

    images: Tensor
    called: bool


@torch.no_grad()
def inputs_of_part(
    model: nn.Module, part: str, images: Tensor, forward: Callable[[nn.Module, Tensor], Any] | None = None
) -> Given:
    """What the submodule ``part`` of ``model`` gets while the model runs over ``images``.

    A model may call the part, or methods of it such as timm's ``forward_features``: then its first convolution of three
    channels, the patch embedding, says what it gets.

    Args:
        part: the submodule's path, such as ``backbone.encoder``.
        images: what the whole model takes, [M, ...]; batches of it are run, on the device where it is.
        forward: runs the model on a batch; default: ``model(batch)``.

    Raises:
        BadInput: it was not run, or its first argument is no batch of images.
    """
    module = model.get_submodule(part)
    embedding = next((one for one in module.modules() if isinstance(one, nn.Conv2d) and one.in_channels == 3), None)
    seen: dict[nn.Module, list[Tensor]] = {one: [] for one in (module, embedding) if one is not None}

    def note(where: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].ndim != 4 or inputs[0].shape[1] != 3:
            raise BadInput(f"part {part!r}: expected images [N, 3, H, W] as its first argument")
        seen[where].append(inputs[0].detach())

    with hooks([where.register_forward_pre_hook(note) for where in seen]):
        for batch in images.split(BATCH):
            (forward or nn.Module.__call__)(model, batch)
    called, embedded = seen[module], [] if embedding is None else seen[embedding]
    if not called and not embedded:
        raise BadInput(f"part {part!r}: the model did not run it on these images")
    complete = bool(called) and len(called) >= len(embedded)
    return Given(torch.cat(called if complete else embedded), complete)


def inner_sites(model: nn.Module, sites: Sites) -> Sites:
    """``sites`` where a bigger model reads more than the outputs of ``model``, such as tokens or its final norm's.

    Tokens cannot be rotated then, as nothing would turn them back, nor a norm be folded that is read behind the blocks.
    """
    head = stages(model)[-1]
    linears = tuple(replace(site, norm=None) if head.holds(site.name) else site for site in sites.linears)
    return replace(sites, linears=linears, stream=None)
