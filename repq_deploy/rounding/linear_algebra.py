"""Positive definite systems from second moments that may be singular: as much jitter as Cholesky needs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cholesky", "solve"]


def cholesky(moment: Tensor) -> Tensor:
    """The lower Cholesky factor of a symmetric, positive semidefinite matrix.

    Raises:
        ValueError: the matrix is not positive semidefinite.
    """
    identity = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    unit = torch.diagonal(moment).mean().clamp_min(1e-30)
    for jitter in (0.0, *(10.0**power for power in range(-12, 0))):
        factor, failed = torch.linalg.cholesky_ex(moment + jitter * unit * identity)
        if not failed:
            return factor
    raise ValueError("a matrix of second moments is not positive semidefinite, even with jitter 0.1")


def solve(moment: Tensor, right: Tensor) -> Tensor:
    """``moment^-1 right``, both in float64."""
    return torch.cholesky_solve(right, cholesky(moment))
