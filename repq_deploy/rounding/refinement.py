"""ERQ's rounding refinement (Zhong et al., ICML 2024: "weight quantization error reduction", from its published code).

Each round rounds half of the columns that are still free, first to the nearest values. Then each row flips the weight
whose flip to its other neighbour on the grid promises most, one weight after the other, as long as the row's error
falls. The columns that are still free make up for the error that is left, by ridge regression.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repq_deploy.quant import ops
from repq_deploy.quant.quantizers import UniformParameters
from repq_deploy.rounding.gptq import nearest
from repq_deploy.rounding.linear_algebra import solve

__all__ = ["refined"]

#: Flips tried for each row in each round.
FLIPS = 100
#: The ridge's strength, relative to the inputs' mean power.
STRENGTH = 0.01


def refined(weight: Tensor, inputs: Tensor, grid: UniformParameters, bits: int) -> Tensor:
    """Round ``weight`` [out, in] as ``repq_deploy.rounding.gptq`` describes."""
    weight = weight.clone()
    free = torch.arange(weight.shape[1], device=weight.device)
    penalty = STRENGTH * torch.diagonal(inputs).mean()
    while len(free) > 0:
        now, free = free[: (len(free) + 1) // 2], free[(len(free) + 1) // 2 :]
        before = weight[:, now]
        weight[:, now] = _flip(before, inputs[now][:, now], grid, bits)
        if len(free) > 0:
            moment = inputs[free][:, free] + penalty * torch.eye(len(free), dtype=weight.dtype, device=weight.device)
            change = solve(moment, inputs[free][:, now] @ (weight[:, now] - before).T)
            weight[:, free] -= change.T
    return weight


def _flip(weight: Tensor, inputs: Tensor, grid: UniformParameters, bits: int) -> Tensor:
    """The rounding of [out, columns] that flips reach from the nearest one; every row falls in error or stays."""
    rows = torch.arange(len(weight), device=weight.device)
    scale = grid.scale[:, None]
    low, high = (end[:, None] for end in grid.ends(bits))
    value = nearest(weight, inputs, grid, bits)
    error = value - weight
    # The other neighbour of each weight; none where it lies outside of the grid.
    other = value - torch.sign(error) * scale
    allowed = (error != 0) & (other >= low - scale / 2) & (other <= high + scale / 2)
    gradient = 2 * error @ inputs
    power = torch.diagonal(inputs)
    active = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    for _ in range(FLIPS):
        # Only a flip against the gradient can lower the error: one whose error and gradient have the same sign.
        promise = torch.where(allowed & (gradient * error > 0), gradient.abs(), 0.0)
        best, column = promise.max(dim=1)
        step = (other - value)[rows, column]
        # error (w + step e_i) = error + step * gradient_i + step^2 H_ii
        gain = step * gradient[rows, column] + step.square() * power[column]
        active = active & (best > 0) & (gain < 0)
        if not active.any():
            break
        step = torch.where(active, step, 0.0)
        value[rows, column] += step
        error[rows, column] += step
        allowed[rows[active], column[active]] = False
        gradient += 2 * step[:, None] * inputs[column]
    return ops.uniform_values(ops.uniform_codes(value, grid.scale, grid.zero_point, bits, 0), grid.scale, 0)
