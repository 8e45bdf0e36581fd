"""AdaLog's quantizer of post-GELU activations (arXiv 2407.12951): shifted to be positive, then on a logarithmic grid.

GELU is never below -0.17, where most of its values lie, and its large values are few: the grid of a logarithm, dense at
the small end, suits it once ``SHIFT`` is added. The bias of the layer that reads it takes the shift out again, exactly.
As in the published code the steps per octave are 37 / n, n searched along with the scale, by the squared error of the
tensor (its further rounds by the error of the layer's output are not taken over). Ours differs as
``repq_deploy.quant.softmax.AdaLogQuantizer`` says: the zero is one of the 2^bits levels, values stand in a table.

The values are no multiples of one scale, so no engine can run the product that reads them on integers: fc2 multiplies
floats (by integer weights, dequantized), on every backend. This is for accuracy studies.
"""

from __future__ import annotations

import torch

from repq_deploy.models.sites import LinearSite
from repq_deploy.quant.layers import QuantLinear
from repq_deploy.quant.softmax import AdaLogQuantizer, adalog_search
from repq_deploy.rewrites.folds import shift_input

__all__ = ["SHIFT", "use_adalog"]

#: A logarithm needs more than 0, and GELU is at least -0.169971, its form by tanh -0.170041.
SHIFT = 0.1701


@torch.no_grad()
def use_adalog(site: LinearSite, layer: QuantLinear) -> None:
    """Give ``layer``, which reads a GELU, a logarithmic input quantizer, pending, and the shift that it needs.

    Its weight quantizer is calibrated now, if it is enabled: the bias makes up for the shift times the weight in use.
    """
    layer.input_quantizer = AdaLogQuantizer(f"{site.name}.input", layer.input_quantizer.bits)
    layer.input_quantizer.search = adalog_search(layer.input_quantizer)
    shift_input(layer, layer.weight.new_full((), SHIFT))
