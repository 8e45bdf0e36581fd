"""How large the error of a quantizer is."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["error_db"]


def error_db(x: Tensor, values: Tensor) -> float:
    """The mean square of ``x`` over that of ``values - x``, in dB, of any shape; infinite without error."""
    signal = float(x.detach().square().mean())
    noise = float((values - x).detach().square().mean())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
