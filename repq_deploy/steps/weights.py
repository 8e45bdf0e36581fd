"""The step that makes weights integers: ridge regression first, then rounding, layer by layer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from repq_deploy.calibration.run import Calibration, require_folded, require_scales, walk
from repq_deploy.calibration.statistics import Prefix, Statistics, gather
from repq_deploy.quant.layers import QuantConv2d, QuantLinear
from repq_deploy.quant.noise import error_db
from repq_deploy.quant.quantizers import UniformParameters
from repq_deploy.quant.ranges import weight_finder
from repq_deploy.rounding.adaround import adaround
from repq_deploy.rounding.gptq import Rounding, gptq, nearest
from repq_deploy.rounding.refinement import refined
from repq_deploy.rounding.ridge import ridge_update

__all__ = ["weights"]

ROUNDINGS: dict[str, Rounding] = {"nearest": nearest, "gptq": gptq, "refined": refined, "adaround": adaround}


def weights(
    run: Calibration,
    *,
    ridge: float = 0.0,
    rounding: Literal["nearest", "gptq", "refined", "adaround"] = "nearest",
    prefix: Prefix = "quantized",
    images: int = 256,
) -> None:
    """Quantize every weight, once activations have been calibrated and folded.

    Each bias takes up the mean error of the layer's output that the quantized input and the rounding cause.

    Args:
        ridge: strength of the ridge regression that goes before the rounding; 0 for none.
        rounding: ``nearest``, GPTQ, ERQ's refinement, or AdaRound, which takes longest (see ``rounding.adaround``).
        prefix: whether a layer sees the error of the layers before it.
        images: how many are looked at, at most; ERQ's authors see no gain beyond 256.
    """
    require_scales(run, "weights", weights=False)
    require_folded(run, "weights")
    for position in walk(run, "quantizing weights", images=images):
        for site, layer in position.linears(run.model):
            statistics = gather(run, position, site, layer, prefix=prefix)
            _quantize(run, layer, statistics, ridge, ROUNDINGS[rounding])


@torch.no_grad()
def _quantize(
    run: Calibration,
    layer: QuantLinear | QuantConv2d,
    statistics: Statistics,
    ridge: float,
    rounding: Rounding,
) -> None:
    quantizer = layer.weight_quantizer
    weight = layer.weight.double().flatten(1)
    compensated = weight + ridge_update(statistics, ridge)[0] if ridge > 0 else weight
    symmetric = run.model.bits.symmetric_weights(quantizer.bits)
    found = weight_finder(quantizer.bits, symmetric=symmetric, kind=quantizer.range_kind)(compensated.float())
    grid = UniformParameters(found.scale.double(), found.zero_point.double())
    # The bias takes up the mean error, so only the inputs' deviation from their mean counts.
    rounded = rounding(compensated, statistics.covariance, grid, quantizer.bits)
    bias = statistics.error[-1] + (weight - rounded) @ statistics.mean
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    layer.weight = nn.Parameter(rounded.float().view_as(layer.weight), requires_grad=False)
    layer.bias = nn.Parameter(bias.float(), requires_grad=False)
    quantizer.adopt(found)
    quantizer.rounded_db = torch.tensor(error_db(weight, rounded), dtype=torch.float32).to(rounded.device)
    quantizer.enabled = True
