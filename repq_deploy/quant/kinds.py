"""The kinds of quantizer by name, as tables of quantizers call them."""

from __future__ import annotations

from repq_deploy.bits import MAX_BITS, MIN_BITS
from repq_deploy.quant.curves import CURVES, CurveQuantizer
from repq_deploy.quant.quantizers import Log2Quantizer, Quantizer, UniformQuantizer

__all__ = ["make_quantizer"]

_STEPS_PER_OCTAVE = {"log2": 1, "log_sqrt2": 2}


def make_quantizer(kind: str, site: str, bits: int) -> Quantizer:
    """A quantizer of one ``kind``, without numbers: "uniform", "log2", "log_sqrt2", or a row of ``curves.CURVES``.

    Raises:
        ValueError: there is no such kind, or there are no such bits.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"quantizer {site[:80]!r}: {bits} bits, expected {MIN_BITS} to {MAX_BITS}")
    if kind == "uniform":
        return UniformQuantizer(site, bits)
    if kind in _STEPS_PER_OCTAVE:
        return Log2Quantizer(site, bits, steps_per_octave=_STEPS_PER_OCTAVE[kind])
    if kind in CURVES:
        return CurveQuantizer(site, bits, CURVES[kind])
    raise ValueError(f"quantizer {site[:80]!r}: kind {kind[:40]!r} is not known")
