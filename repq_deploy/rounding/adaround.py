"""AdaRound (Nagel et al., ICML 2020, arXiv 2004.10568): learn for each weight whether it is rounded down or up.

Each weight has a variable V. The weight is rounded down, and the part ``h(V)`` of a grid step is added; h is a sigmoid
stretched to [-0.1, 1.1] and clipped to [0, 1]. Learning minimizes the squared error of the layer's output plus the sum
of ``1 - |2 h - 1|^beta``, which drives each h to 0 or 1; beta falls from 20 to 2, so that at first only the undecided h
are left alone. The error is quadratic in the weight, so the mean of ``x x^T`` stands for the images.

Three things differ from the paper. Every step uses all images instead of a batch of them. The error is in units of grid
and input power, so that one strength of the regularizer serves every layer. A row keeps its nearest rounding where
learning found none better.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from repq_deploy.quant import ops
from repq_deploy.quant.quantizers import UniformParameters
from repq_deploy.rounding.gptq import nearest

__all__ = ["adaround"]

#: How far the sigmoid is stretched beyond 0 and 1, so that it reaches both.
_STRETCH = 0.1
#: Adam's steps, each of which costs one product of a matrix of the weight's size with ``inputs``, and its rate.
_STEPS, _RATE = 400, 0.05
#: Of the regularizer, for an error in units of the squared grid step and the inputs' mean square.
_STRENGTH = 1.0
#: Share of the steps before the regularizer begins.
_WARM_UP = 0.2


def adaround(weight: Tensor, inputs: Tensor, grid: UniformParameters, bits: int) -> Tensor:
    """Round ``weight`` [out, in] as ``rounding.gptq`` describes; no row is worse than its nearest rounding."""
    scale, zero_point = grid.scale[:, None], grid.zero_point[:, None]
    moment = (inputs / torch.diagonal(inputs).mean().clamp_min(1e-30)).float()
    exact = weight / scale
    down = torch.clamp(torch.floor(exact), -zero_point, 2**bits - 2 - zero_point)
    start = (exact - down).clamp(0.001, 0.999)
    part = (start + _STRETCH) / (1 + 2 * _STRETCH)
    variable = torch.log(part / (1 - part)).float()
    missing = (down - exact).float()
    first, second = torch.zeros_like(variable), torch.zeros_like(variable)
    for step in range(1, _STEPS + 1):
        sigmoid = torch.sigmoid(variable)
        stretched = sigmoid * (1 + 2 * _STRETCH) - _STRETCH
        up = stretched.clamp(0, 1)
        gradient = 2 * (missing + up) @ moment
        if (progress := (step / _STEPS - _WARM_UP) / (1 - _WARM_UP)) > 0:
            beta = 2 + 9 * (1 + math.cos(math.pi * progress))
            undecided = 2 * up - 1
            gradient -= _STRENGTH * 2 * beta * undecided.abs().pow(beta - 1) * torch.sign(undecided)
        # A clipped h has no slope: it is decided.
        gradient *= (1 + 2 * _STRETCH) * sigmoid * (1 - sigmoid) * ((stretched > 0) & (stretched < 1))
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        change = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        variable -= _RATE * change
    up = (torch.sigmoid(variable) >= 0.5).to(weight.dtype)
    learned = ops.uniform_values(down + up, grid.scale, 0)
    plain = nearest(weight, inputs, grid, bits)
    better = _error(learned - weight, inputs) < _error(plain - weight, inputs)
    return torch.where(better[:, None], learned, plain)


def _error(difference: Tensor, inputs: Tensor) -> Tensor:
    """The error of each row, [out]."""
    return (difference @ inputs * difference).sum(dim=1)
