"""Quantization methods: one file each, that reads like its paper. Importing this package fills the registry."""

from __future__ import annotations

from repq_deploy.methods import minmax, percentile, repq
from repq_deploy.methods.registry import METHODS, Method, find_method

__all__ = ["METHODS", "Method", "find_method", "minmax", "percentile", "repq"]
