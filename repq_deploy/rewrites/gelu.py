"""AdaLog's quantizer of post-GELU activations (arXiv 2407.12951): a shift to positive values, and a logarithmic grid.

A GELU's output is never below -0.17; most values lie near that, and large ones are few. A logarithmic grid, dense at
the small end, suits them once ``SHIFT`` is added. The bias of the layer that reads them takes the shift out exactly.
As in the published code the steps per octave are 37 / n, n found along with the scale, by the squared error of the
tensor (its further rounds by the error of the layer's output are not taken over). Ours differs as
``repq_deploy.quant.curves`` says: the zero is one of the 2^bits levels, values stand in a table.

The values are no multiples of one scale, so no engine can run the product that reads them on integers: fc2 multiplies
floats (by integer weights, dequantized), on every backend. This is for accuracy studies.
"""

from __future__ import annotations

import torch

from repq_deploy.models.sites import LinearSite
from repq_deploy.quant.curves import CURVES, CurveQuantizer, curve_finder
from repq_deploy.quant.layers import QuantLinear
from repq_deploy.quant.quantizers import RangeFinder
from repq_deploy.rewrites.folds import shift_input

__all__ = ["SHIFT", "use_adalog"]

#: A logarithm needs more than 0, and GELU is at least -0.169971, its form by tanh -0.170041.
SHIFT = 0.1701


@torch.no_grad()
def use_adalog(site: LinearSite, layer: QuantLinear) -> RangeFinder:
    """Give ``layer``, which reads a GELU, a logarithmic input quantizer and the shift that it needs.

    Its weight quantizer is calibrated before, if it is enabled: the bias makes up for the shift times the weight in
    use.

    Returns:
        The finder of the input's range.
    """
    layer.input_quantizer = quantizer = CurveQuantizer(
        f"{site.name}.input", layer.input_quantizer.bits, CURVES["adalog"]
    )
    shift_input(layer, layer.weight.new_full((), SHIFT))
    return curve_finder(quantizer, of_probabilities=False)
