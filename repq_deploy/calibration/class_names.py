"""The names of a classifier's outputs, where the model itself tells them: by its answers to images in class folders."""

from __future__ import annotations

import torch
from torch import nn

from repq_deploy.calib_data.classes import names_by_answers
from repq_deploy.calib_data.images import LoadedImages
from repq_deploy.devices import on_device

__all__ = ["class_names_of"]

#: More say no more of an order.
_IMAGES, _BATCH = 64, 16


def class_names_of(network: nn.Module, images: LoadedImages, device: torch.device) -> tuple[str, ...]:
    """The names of the outputs of ``network``, in order, if ``images`` are in as many class folders and it puts them
    there in an order of these folders' names; empty where it does not, or they are in none."""
    folders = len(images.source.class_names)
    if images.source.labels is None or not folders or int(getattr(network, "num_classes", 0)) != folders:
        return ()
    with torch.no_grad(), on_device(device, network):
        batches = torch.from_numpy(images.pixels[:_IMAGES]).split(_BATCH)
        answers = torch.cat([network(batch.to(device)).argmax(dim=1).cpu() for batch in batches])
    return names_by_answers(images.source.select(range(len(answers))), answers.numpy())
