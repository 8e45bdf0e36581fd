"""Baseline: the whole range of every tensor, per tensor for activations. What deployment tools do at 8 bits."""

from __future__ import annotations

from torch import Tensor

from repq_deploy.methods.per_tensor import calibrate_per_tensor
from repq_deploy.methods.registry import register
from repq_deploy.quantized import QuantizedModel
from repq_deploy.ranges import minmax_search

__all__ = ["minmax"]


@register("minmax", softmax="uniform")
def minmax(model: QuantizedModel, images: Tensor) -> None:
    """Calibrate ``model`` with minimum and maximum from normalized ``images`` [N, 3, H, W]."""
    calibrate_per_tensor(model, images, minmax_search)
