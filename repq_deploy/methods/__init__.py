"""Quantization methods: one file each, that reads like its paper. Importing this package fills the registry."""

from __future__ import annotations

from repq_deploy.methods.best import BEST, BEST_HIGH
from repq_deploy.methods.dopq import DOPQ
from repq_deploy.methods.erq import ERQ
from repq_deploy.methods.minmax import MINMAX
from repq_deploy.methods.mixq import MIXQ
from repq_deploy.methods.percentile import PERCENTILE
from repq_deploy.methods.registry import METHODS, Method, find_method
from repq_deploy.methods.repq import REPQ
from repq_deploy.methods.repquant import REPQUANT

__all__ = [
    "BEST",
    "BEST_HIGH",
    "DOPQ",
    "ERQ",
    "METHODS",
    "MINMAX",
    "MIXQ",
    "PERCENTILE",
    "REPQ",
    "REPQUANT",
    "Method",
    "find_method",
]
