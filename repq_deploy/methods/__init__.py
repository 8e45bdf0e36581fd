"""Quantization methods: one file each, that reads like its paper. Importing this package fills the registry."""

from __future__ import annotations

from repq_deploy.methods import best, dopq, erq, minmax, mixq, percentile, repq, repquant  # noqa: F401 - they register
from repq_deploy.methods.registry import METHODS, Method, find_method

__all__ = ["METHODS", "Method", "find_method"]
