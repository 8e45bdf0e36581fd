"""Baseline: RepQ-ViT's percentile search, but per tensor for activations, without its reparameterization."""

from __future__ import annotations

from repq_deploy.methods.registry import register
from repq_deploy.steps import step

register(
    "percentile",
    softmax="uniform",
    steps=(step("ranges", post_norm="tensor"), step("fold")),
)
