"""A part of a bigger model: what it is given while the whole model runs over the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.calibration.run import BATCH
from repq_deploy.errors import BadInput
from repq_deploy.hooks import hooks

__all__ = ["inputs_of_part"]


@torch.no_grad()
def inputs_of_part(
    model: nn.Module, part: str, images: Tensor, forward: Callable[[nn.Module, Tensor], Any] | None = None
) -> Tensor:
    """The images [N, 3, H, W] that the submodule ``part`` of ``model`` gets while the model runs over ``images``.

    Args:
        part: the submodule's path, such as ``backbone.encoder``.
        images: what the whole model takes, [M, ...]; batches of it are run, on the device where it is.
        forward: runs the model on a batch; default: ``model(batch)``.

    Raises:
        BadInput: there is no such submodule, it was not run, or its first argument is no batch of images.
    """
    try:
        module = model.get_submodule(part)
    except AttributeError as error:
        raise BadInput(f"part {part!r}: the model has no submodule of that name") from error
    seen: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].ndim != 4 or inputs[0].shape[1] != 3:
            raise BadInput(f"part {part!r}: expected images [N, 3, H, W] as its first argument")
        seen.append(inputs[0].detach())

    with hooks([module.register_forward_pre_hook(note)]):
        for batch in images.split(BATCH):
            (forward or nn.Module.__call__)(model, batch)
    if not seen:
        raise BadInput(f"part {part!r}: the model did not run it on these images")
    return torch.cat(seen)
