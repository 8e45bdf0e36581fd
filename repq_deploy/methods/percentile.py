"""Baseline: RepQ-ViT's percentile search, but per tensor for activations, without its reparameterization."""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

__all__ = ["PERCENTILE"]

PERCENTILE = register(
    "percentile",
    softmax="uniform",
    steps=(step("ranges", post_norm="tensor"), step("fold")),
)
