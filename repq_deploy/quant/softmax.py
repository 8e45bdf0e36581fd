"""How attention probabilities are quantized: the kinds of quantizer, and how each finds its parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from repq_deploy.errors import BadInput
from repq_deploy.quant.curves import CURVES, CurveQuantizer, curve_finder
from repq_deploy.quant.kinds import make_quantizer
from repq_deploy.quant.quantizers import Log2Quantizer, Quantizer, RangeFinder
from repq_deploy.quant.ranges import log2_finder, operand_finder

__all__ = [
    "LOG2_MAX",
    "SOFTMAX_KINDS",
    "check_softmax",
    "of_largest",
    "softmax_finder",
    "softmax_kind",
    "softmax_quantizer",
]

#: Powers of two of the largest probability of each row, whose sum divides the product with v.
LOG2_MAX = "log2_max"

#: Uniform; logarithmic (FQ-ViT's log2, SOLE's of each row's largest, RepQ-ViT's log-sqrt2); on a curve (AdaLog's
#: adaptive base, DopQ-ViT's tangent).
#: "by_bits": log2 below ``UNIFORM_FROM`` bits, uniform from there on; neither has a scale for each element.
#: "by_site": the same, but log2_max for log2 where q and k are turned or normed behind their projection.
#: "float": nothing between the projections qkv and proj is quantized.
SOFTMAX_KINDS: tuple[str, ...] = ("uniform", "log2", LOG2_MAX, "log_sqrt2", *CURVES, "by_bits", "by_site", "float")

#: From this many bits on "by_bits" is uniform: more bits refine a uniform quantizer, but not a logarithmic one.
UNIFORM_FROM = 6


def check_softmax(kind: str) -> str:
    """``kind``, if it is one of ``SOFTMAX_KINDS``.

    Raises:
        BadInput: it is not.
    """
    if kind not in SOFTMAX_KINDS:
        raise BadInput(f"softmax {kind[:40]!r}: expected one of {', '.join(SOFTMAX_KINDS)}")
    return kind


def softmax_kind(kind: str, *, bits: int, turned: bool) -> str:
    """``kind`` for one attention, with "by_bits" and "by_site" decided by its ``bits``.

    ``turned``: something stands between the projections of q and k and their product, so weights cannot rotate them.
    """
    if kind in ("by_bits", "by_site"):
        if bits >= UNIFORM_FROM:
            return "uniform"
        return LOG2_MAX if turned and kind == "by_site" else "log2"
    return kind


def softmax_quantizer(kind: str, site: str, bits: int) -> Quantizer:
    """The quantizer of attention probabilities of one ``kind`` that ``softmax_kind`` gives, which is not "float"."""
    return make_quantizer("log2" if kind == LOG2_MAX else kind, site, bits)


def of_largest(logits: Tensor) -> Tensor:
    """Probabilities over the largest of their row, in (0, 1]: ``exp(logits - max)``, over the last axis."""
    return (logits - logits.amax(dim=-1, keepdim=True)).exp()


def softmax_finder(quantizer: Quantizer, kind: str = "percentile", *, relative: bool = False) -> RangeFinder:
    """The range finder for ``quantizer``: the one called ``kind`` for a uniform one, otherwise its own.

    ``relative``: it quantizes what ``of_largest`` gives, so its scale is 1.
    """
    if relative:
        return lambda x: torch.ones_like(x[(0,) * x.ndim])
    if isinstance(quantizer, Log2Quantizer):
        return log2_finder(quantizer.bits, quantizer.steps_per_octave)
    if isinstance(quantizer, CurveQuantizer):
        return curve_finder(quantizer, of_probabilities=True)
    return operand_finder(quantizer.bits, kind=kind)
