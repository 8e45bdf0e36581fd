"""How attention probabilities are quantized: the kinds of quantizer, and how each finds its scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from repq_deploy.quantizers import Log2Quantizer, Quantizer, Search, UniformQuantizer
from repq_deploy.ranges import log2_search

__all__ = ["SoftmaxQuantizer", "softmax_quantizer", "softmax_search"]

#: Uniform; logarithmic (FQ-ViT's log2, RepQ-ViT's log-sqrt2).
SoftmaxQuantizer = Literal["uniform", "log2", "log_sqrt2"]


def softmax_quantizer(kind: SoftmaxQuantizer, site: str, bits: int) -> Quantizer:
    """The quantizer of attention probabilities of one ``kind``."""
    if kind == "uniform":
        return UniformQuantizer(site, bits)
    return Log2Quantizer(site, bits, steps_per_octave=1 if kind == "log2" else 2)


def softmax_search(quantizer: Quantizer, uniform: Callable[..., Search]) -> Search:
    """The search for ``quantizer``: ``uniform(bits, symmetric=...)`` for a uniform one, otherwise its own."""
    if isinstance(quantizer, Log2Quantizer):
        return log2_search(quantizer.bits, quantizer.steps_per_octave)
    # An 8-bit operand of a product has no bias that could take its zero point.
    return uniform(quantizer.bits, symmetric=quantizer.bits == 8)
