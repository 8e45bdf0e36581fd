"""Ridge regression: the change of a layer's weight and bias that best undoes the error of its quantized input.

ERQ (Zhong et al., ICML 2024; the "activation quantization error reduction" of its published code), with one change:
the regularization is relative to the inputs' power, so that it depends neither on the number of images nor on the scale
that a folded layer norm happens to have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repq_deploy.calibration.statistics import Statistics
from repq_deploy.rounding.linear_algebra import solve

__all__ = ["ridge_update"]


def ridge_update(statistics: Statistics, strength: float) -> tuple[Tensor, Tensor]:
    """The change of weight [out, in] and bias [out] that minimizes ``|error|^2 + strength * power * |change|^2``.

    ``power`` is the inputs' mean square, ``strength`` > 0. The bias is regularized next to nothing: it has as many
    observations as there are rows.
    """
    moment = statistics.moment
    penalty = moment.new_full((len(moment),), strength) * torch.diagonal(statistics.inputs).mean()
    penalty[-1] = 1e-6
    change = solve(moment + torch.diag(penalty), statistics.error)
    return change[:-1].T, change[-1]
