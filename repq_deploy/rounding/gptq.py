"""Rounding of a weight matrix to its grid so that the layer's output, not each weight, is nearest.

Every function takes a weight [out, in] in float64, the mean of ``x x^T`` over the layer's inputs [in, in], and the grid
(scale and zero point per output channel), and gives the weight on the grid. The error of a row is
``(w' - w) H (w' - w)^T``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repq_deploy.quant import ops
from repq_deploy.quant.quantizers import UniformParameters
from repq_deploy.rounding.linear_algebra import cholesky

__all__ = ["Rounding", "gptq", "nearest"]

#: Times the mean power, what GPTQ adds to the diagonal.
DAMPING = 0.01

#: (weight [out, in], inputs [in, in], grid, bits) -> weight on the grid.
Rounding = Callable[[Tensor, Tensor, UniformParameters, int], Tensor]


def nearest(weight: Tensor, inputs: Tensor, grid: UniformParameters, bits: int) -> Tensor:
    """Round each weight by itself."""
    del inputs
    return ops.uniform_values(ops.uniform_codes(weight, grid.scale, grid.zero_point, bits, 0), grid.scale, 0)


def gptq(weight: Tensor, inputs: Tensor, grid: UniformParameters, bits: int) -> Tensor:
    """GPTQ (Frantar et al., arXiv 2210.17323): round column by column; those to come make up for the error.

    Columns are taken in the order of falling input power.
    """
    size, block = weight.shape[1], 64
    order = torch.argsort(torch.diagonal(inputs), descending=True)
    identity = torch.eye(size, dtype=inputs.dtype, device=inputs.device)
    hessian = inputs[order][:, order] + DAMPING * torch.diagonal(inputs).mean() * identity
    # The upper Cholesky factor of the inverse: its row i says how an error in column i moves the columns after it.
    inverse = torch.cholesky_inverse(cholesky(hessian))
    factor = cholesky(inverse).T.float()
    factor = factor / torch.diagonal(factor)[:, None]
    # Transposed, a column of the weight is contiguous; float32 is enough once the factor is known.
    left = weight.T[order].float()
    scale, zero_point = grid.scale.float(), grid.zero_point.float()
    rounded = torch.empty_like(left)
    for start in range(0, size, block):
        stop = min(start + block, size)
        errors = torch.empty_like(left[start:stop])
        for i in range(start, stop):
            rounded[i] = ops.uniform_codes(left[i], scale, zero_point, bits, 0).mul_(scale)
            errors[i - start] = left[i] - rounded[i]
            left[i + 1 : stop].addr_(factor[i, i + 1 : stop], errors[i - start], alpha=-1)
        left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    result = torch.empty_like(rounded)
    result[order] = rounded
    return result.T.to(weight.dtype)
