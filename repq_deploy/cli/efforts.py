"""Choices of ``repq-export`` that the command line spells out."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Attention", "Effort"]


class Effort(StrEnum):
    """How much work the method ``best`` does: ``high`` also uses more images and, below 5 bits, trains the model."""

    fast = "fast"
    high = "high"


class Attention(StrEnum):
    """How attention is quantized: as the method does it, or one of ``repq_deploy.quant.softmax.SoftmaxQuantizer``."""

    method = "method"
    float = "float"
    uniform = "uniform"
    log2 = "log2"
    log_sqrt2 = "log_sqrt2"
    adalog = "adalog"
    tan = "tan"
    by_bits = "by_bits"
