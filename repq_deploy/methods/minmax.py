"""Baseline: the whole range of every tensor, per tensor for activations. What deployment tools do at 8 bits."""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

register(
    "minmax",
    softmax="uniform",
    steps=(step("ranges", find="minmax", post_norm="tensor"), step("fold")),
)
