"""Baseline: RepQ-ViT's percentile search, but per tensor for activations, without its reparameterization."""

from __future__ import annotations

from torch import Tensor

from repq_deploy.methods.per_tensor import calibrate_per_tensor
from repq_deploy.methods.registry import register
from repq_deploy.quantized import QuantizedModel
from repq_deploy.ranges import percentile_search

__all__ = ["percentile"]


@register("percentile", softmax="uniform")
def percentile(model: QuantizedModel, images: Tensor) -> None:
    """Calibrate ``model`` with searched percentiles from normalized ``images`` [N, 3, H, W]."""
    calibrate_per_tensor(model, images, percentile_search)
