"""How large the error of a quantizer is."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["error_db"]


def error_db(x: Tensor, values: Tensor) -> float:
    """The variance of ``x`` over the mean square of ``values - x``, in dB, of any shape; infinite without error.

    It is the signal-to-quantization-noise ratio with the signal's mean taken out: shifts move the mean at no cost.
    """
    signal = float(x.detach().var(correction=0))
    noise = float((values - x).detach().square().mean())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
