"""Bit allocation: one choice for each site, least summed cost, within budgets. A multiple-choice knapsack.

    minimize    sum_l sum_b x[l, b] (eps + Omega_l)^tau S[l, b]
    subject to  sum_b x[l, b] = 1,  x binary,  and each budget:  sum_l sum_b x[l, b] cost[l, b] <= limit

with relevance shares Omega_l (``relevance``), sensitivities S[l, b] (``sensitivity``) and costs (``space``). It is
solved exactly by HiGHS through SciPy's ``milp``. Mix-QViT (arXiv 2501.06357) and LRP-QViT (arXiv 2401.11243) state
that relevance and sensitivity enter an integer program; how is not published. This objective is our reconstruction.

The budgets, each in its own unit:

* ``average bits`` B: the average bits of the allocated weights are at most B, and so are the average bits of the
  activations that multiply-accumulates (MACs) read (two constraints). The patch embedding's input, which always has 8
  bits, does not count. So a model with the same bits everywhere has that average.
* ``size`` in bytes: weights as the exported file stores them (INT4 or INT8), scales with zero points, everything else
  as float32.
* ``bit operations``: sum over MACs of the product of both factors' bits.
* ``latency``: the sum of the sites' measured times at their chosen bits, and a fixed time.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from repq_deploy.bits import SiteBits
from repq_deploy.errors import BadInput
from repq_deploy.search.space import SearchSite

__all__ = [
    "Allocation",
    "Budget",
    "allocate",
    "average_bits_budgets",
    "bit_operations_budget",
    "latency_budget",
    "objective",
    "size_budget",
]


@dataclass(frozen=True)
class Budget:
    """``(fixed + sum of cost over sites) / scale <= limit``.

    Args:
        name: the budget's name in messages, for example ``average bits of weights``.
        cost: gives the cost of a site at one of its choices.
        limit: the limit, in the user's unit.
        unit: the user's unit, for example ``MB``.
        scale: how many cost units make one unit of the user.
        fixed: the cost of what is not allocated.
    """

    name: str
    cost: Callable[[SearchSite, SiteBits], float]
    limit: float
    unit: str = ""
    scale: float = 1.0
    fixed: float = 0.0

    def spent(self, sites: Sequence[SearchSite], chosen: Mapping[str, SiteBits]) -> float:
        """What ``chosen`` costs, in units of the user."""
        return (self.fixed + sum(self.cost(site, chosen[site.name]) for site in sites)) / self.scale

    def range(self, sites: Sequence[SearchSite]) -> tuple[float, float]:
        """The least and the most that any allocation costs, in units of the user."""
        costs = [[self.cost(site, bits) for bits in site.choices] for site in sites]
        return (self.fixed + sum(map(min, costs))) / self.scale, (self.fixed + sum(map(max, costs))) / self.scale


@dataclass(frozen=True)
class Allocation:
    """``chosen`` maps a site's name to its bits; ``objective`` is the cost of this choice; ``spent`` maps a budget's
    name to what it uses."""

    chosen: dict[str, SiteBits]
    objective: float
    spent: dict[str, float]


def average_bits_budgets(sites: Sequence[SearchSite], average: float) -> list[Budget]:
    """The two constraints of a budget of ``average`` bits."""
    weights = sum(site.parameters for site in sites)
    macs = sum(site.activation_bits(SiteBits(1, 1)) for site in sites)
    return [
        Budget("average bits of weights", SearchSite.weight_bits, average, "bits", weights),
        Budget("average bits of activations", SearchSite.activation_bits, average, "bits", macs),
    ]


def size_budget(
    sites: Sequence[SearchSite],
    megabytes: float,
    *,
    numbers: int,
    fixed_at_8: int = 0,
    rows: int = 0,
    symmetric: bool,
) -> Budget:
    """The budget of ``megabytes`` (10^6 bytes) for weights and other constants.

    Args:
        numbers: how many numbers are stored; those that belong to no site are float32.
        fixed_at_8: how many of them belong to sites that are not allocated and have 8 bits (patch embedding and head
            under the preset ``deploy``).
        rows: how many rows the quantized weights have; each has a float32 scale and an 8-bit zero point.
        symmetric: whether weights below 8 bits are symmetric, as under ``deploy``.
    """
    floats = numbers - fixed_at_8 - sum(site.parameters for site in sites)

    def cost(site: SearchSite, bits: SiteBits) -> float:
        return site.stored_bytes(bits, symmetric=symmetric)

    return Budget("size", cost, megabytes, "MB", 1e6, fixed_at_8 + 4.0 * floats + 5.0 * rows)


def latency_budget(milliseconds: float, table: Mapping[str, Mapping[SiteBits, float]], *, fixed: float) -> Budget:
    """The budget of ``milliseconds`` for the times in ``table`` (site's name, then bits, to ms) plus ``fixed`` ms."""
    return Budget("latency", lambda site, bits: table[site.name][bits], milliseconds, "ms", fixed=fixed)


def bit_operations_budget(giga: float, *, fixed_at_8: int = 0) -> Budget:
    """The budget of ``giga`` 10^9 bit operations per image; ``fixed_at_8`` counts MACs of sites not allocated."""
    return Budget("bit operations", SearchSite.bit_operations, giga, "G", 1e9, 64.0 * fixed_at_8)


def objective(
    sites: Sequence[SearchSite],
    sensitivity: Mapping[tuple[str, SiteBits], float],
    relevance: Mapping[str, float],
    *,
    tau: float,
) -> dict[tuple[str, SiteBits], float]:
    """(eps + Omega_l)^tau S[l, b] of every site and choice; eps is a tenth of the mean share. ``tau`` 0: S alone."""
    eps = 0.1 * sum(relevance[site.name] for site in sites) / len(sites)
    return {
        (site.name, bits): (eps + relevance[site.name]) ** tau * sensitivity[site.name, bits]
        for site in sites
        for bits in site.choices
    }


def allocate(
    sites: Sequence[SearchSite], cost: Mapping[tuple[str, SiteBits], float], budgets: Sequence[Budget]
) -> Allocation:
    """The allocation of least summed ``cost`` within all ``budgets``.

    Raises:
        BadInput: no allocation keeps the budgets; the message gives the range that a budget must lie in.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415 - an import of half a second
    from scipy.sparse import csr_array  # noqa: PLC0415

    for budget in budgets:
        least, most = budget.range(sites)
        if not budget.limit >= least * (1 - 1e-12):
            raise BadInput(
                f"budget {budget.name} {budget.limit:g} {budget.unit}: the choices cost from {least:.6g} to {most:.6g} "
                f"{budget.unit}; allow at least {least:.6g}, or fewer bits among the choices"
            )
    pairs = [(index, site, bits) for index, site in enumerate(sites) for bits in site.choices]
    costs = np.array([cost[site.name, bits] for _, site, bits in pairs])
    rows = np.array([index for index, _, _ in pairs])
    one_each = csr_array((np.ones(len(pairs)), (rows, np.arange(len(pairs)))), shape=(len(sites), len(pairs)))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for budget in budgets:
        spending = np.array([budget.cost(site, bits) for _, site, bits in pairs], dtype=float)
        limit = budget.limit * budget.scale - budget.fixed
        # In units of the limit, so that the solver's absolute tolerance is relative; the mean is of whole bits, whose
        # rounding must not make an allocation of exactly the limit infeasible.
        unit = max(abs(limit), float(spending.max()), 1e-300)
        constraints.append(LinearConstraint(spending[None] / unit, -math.inf, limit / unit * (1 + 1e-12)))
    # The solver stops at a gap of 1e-6 in absolute terms: large costs make that a gap of nothing.
    factor = 1e6 / max(float(np.abs(costs).max()), 1e-300)
    with _silent_stdout():
        result = milp(
            costs * factor,
            integrality=np.ones(len(pairs)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0},
        )
    if result.x is None:
        costs_of = [(budget, *budget.range(sites)) for budget in budgets]
        ranges = "; ".join(f"{budget.name} {low:.6g} to {high:.6g} {budget.unit}" for budget, low, high in costs_of)
        raise BadInput(f"no allocation keeps all budgets together; each alone can be: {ranges}; loosen one")
    chosen = {site.name: bits for taken, (_, site, bits) in zip(result.x, pairs, strict=True) if taken > 0.5}
    spent = {budget.name: budget.spent(sites, chosen) for budget in budgets}
    return Allocation(chosen, sum(cost[name, bits] for name, bits in chosen.items()), spent)


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """Keep what HiGHS prints now and then, whatever its options, out of the process's standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
