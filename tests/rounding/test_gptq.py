import itertools

import numpy as np
import pytest
import torch

from repq_deploy.calibration.statistics import Statistics
from repq_deploy.quant.quantizers import UniformParameters
from repq_deploy.quant.ranges import minmax_finder
from repq_deploy.rounding.adaround import adaround
from repq_deploy.rounding.gptq import DAMPING, gptq, nearest
from repq_deploy.rounding.linear_algebra import cholesky, solve
from repq_deploy.rounding.refinement import STRENGTH, refined
from repq_deploy.rounding.ridge import ridge_update


def problem(rows: int, columns: int, bits: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(500, columns, generator=generator, dtype=torch.float64) @ mixing
    found = minmax_finder(bits, axis=0)(weight.float())
    grid = UniformParameters(found.scale.double(), found.zero_point.double())
    return weight, x.T @ x / len(x), grid


def error(rounded, weight, inputs):
    return ((rounded - weight) @ inputs * (rounded - weight)).sum(dim=1)


@pytest.mark.parametrize("rounding", [nearest, gptq, refined, adaround])
def test_the_result_is_on_the_grid(rounding):
    weight, inputs, grid = problem(6, 40, 3)
    codes = rounding(weight, inputs, grid, 3) / grid.scale[:, None]
    torch.testing.assert_close(codes, codes.round(), atol=1e-5, rtol=0)
    assert (codes.round() >= -grid.zero_point[:, None]).all()
    assert (codes.round() <= 7 - grid.zero_point[:, None]).all()


@pytest.mark.parametrize("rounding", [gptq, refined, adaround])
def test_all_beat_the_nearest_value(rounding):
    weight, inputs, grid = problem(32, 64, 4)
    better = error(rounding(weight, inputs, grid, 4), weight, inputs)
    plain = error(nearest(weight, inputs, grid, 4), weight, inputs)
    assert better.sum() < 0.75 * plain.sum()


@pytest.mark.parametrize(("rounding", "share"), [(gptq, 0.6), (refined, 1.0), (adaround, 0.3)])
def test_all_lie_between_the_best_of_all_roundings_and_the_nearest(rounding, share):
    """Brute force over every rounding of five columns to a neighbour."""
    weight, inputs, grid = problem(12, 5, 4, seed=1)
    scale = grid.scale[:, None]
    low, high = -grid.zero_point[:, None], 15 - grid.zero_point[:, None]
    floor = torch.floor(weight / scale)
    best = torch.full((12,), torch.inf, dtype=torch.float64)
    for up in itertools.product((-1, 0, 1, 2), repeat=5):
        candidate = torch.clamp(floor + torch.tensor(up), low, high) * scale
        best = torch.minimum(best, error(candidate, weight, inputs))
    found = error(rounding(weight, inputs, grid, 4), weight, inputs)
    plain = error(nearest(weight, inputs, grid, 4), weight, inputs)
    assert (found >= best - 1e-4).all()
    assert found.sum() - best.sum() < share * (plain.sum() - best.sum())


def test_gptq_equals_its_definition():
    """The textbook form: one column at a time, the inverse Hessian downdated by elimination."""
    weight, inputs, grid = problem(4, 9, 4, seed=2)
    found = gptq(weight, inputs, grid, 4)
    order = torch.argsort(torch.diagonal(inputs), descending=True)
    inverse = torch.linalg.inv(inputs + DAMPING * torch.diagonal(inputs).mean() * torch.eye(9))
    left, expected = weight.clone(), torch.empty_like(weight)
    for i in order:
        expected[:, i] = nearest(left[:, i : i + 1], inputs, grid, 4)[:, 0]
        left -= torch.outer((left[:, i] - expected[:, i]) / inverse[i, i], inverse[i])
        inverse -= torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_row_of_adaround_is_worse_than_the_nearest(bits, seed):
    weight, inputs, grid = problem(8, 6, bits, seed)
    weight[0, 0] *= 3  # outside of the grid
    found = error(adaround(weight, inputs, grid, bits), weight, inputs)
    plain = error(nearest(weight, inputs, grid, bits), weight, inputs)
    assert (found <= plain).all()
    assert found.sum() < plain.sum()


def test_adaround_with_uncorrelated_inputs_is_the_nearest_rounding():
    weight, _, grid = problem(8, 16, 4)
    inputs = torch.diag(torch.rand(16, dtype=torch.float64) + 0.1)
    assert torch.equal(adaround(weight, inputs, grid, 4), nearest(weight, inputs, grid, 4))


def test_refinement_with_uncorrelated_inputs_is_the_nearest_rounding():
    weight, _, grid = problem(8, 16, 4)
    inputs = torch.diag(torch.rand(16, dtype=torch.float64) + 0.1)
    assert torch.equal(refined(weight, inputs, grid, 4), nearest(weight, inputs, grid, 4))


def test_refinement_flips_what_its_definition_flips():
    """One row and one flip at a time, in NumPy, by the error itself; the columns left make up for it by ridge."""
    weight, inputs, grid = problem(7, 9, 4, seed=5)
    found = refined(weight, inputs, grid, 4)
    moment, penalty = inputs.numpy(), STRENGTH * float(torch.diagonal(inputs).mean())
    for row in range(7):
        scale, zero_point = float(grid.scale[row]), float(grid.zero_point[row])
        left, free = weight[row].numpy().copy(), list(range(9))
        while free:
            now, free = free[: (len(free) + 1) // 2], free[(len(free) + 1) // 2 :]
            target, among = left[now].copy(), moment[np.ix_(now, now)]
            left[now] = _flipped(target, among, scale, zero_point)
            if free:
                ridge = moment[np.ix_(free, free)] + penalty * np.eye(len(free))
                left[free] -= np.linalg.solve(ridge, moment[np.ix_(free, now)] @ (left[now] - target))
        np.testing.assert_allclose(found[row].numpy(), left, rtol=1e-5, atol=1e-6)


def _flipped(target: np.ndarray, moment: np.ndarray, scale: float, zero_point: float) -> np.ndarray:
    """The nearest codes, then flips to the other neighbour, the steepest first, for as long as the error falls."""
    codes = np.clip(np.rint(target / scale), -zero_point, 15 - zero_point)
    tried: set[int] = set()
    while True:
        error = codes * scale - target
        slope = moment @ error
        ways = [
            (abs(slope[i]), i, codes[i] - np.sign(error[i]))
            for i in range(len(target))
            if i not in tried and error[i] * slope[i] > 0
        ]
        ways = [way for way in ways if -zero_point <= way[2] <= 15 - zero_point]
        if not ways:
            return codes * scale
        _, column, code = max(ways)
        flipped = codes.copy()
        flipped[column] = code
        after = flipped * scale - target
        if after @ moment @ after >= error @ moment @ error:
            return codes * scale
        codes = flipped
        tried.add(column)


def test_inputs_that_are_always_zero_are_rounded_too():
    weight, _, grid = problem(8, 16, 4)
    for rounding in (gptq, refined, adaround):
        assert torch.isfinite(rounding(weight, torch.zeros(16, 16, dtype=torch.float64), grid, 4)).all()


def test_ridge_equals_numpys_least_squares():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 7, generator=generator, dtype=torch.float64)
    wanted = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    ones = torch.cat([x, torch.ones(60, 1)], dim=1)
    statistics = Statistics(ones.T @ ones / 60, ones.T @ wanted / 60)
    of_weight, of_bias = ridge_update(statistics, 0.3)
    # Ridge regression is least squares with further rows: the square roots of the penalties.
    power = float((x**2).mean())
    penalties = np.diag(np.sqrt(60 * np.array([0.3 * power] * 7 + [1e-6])))
    rows, right = np.vstack([ones, penalties]), np.vstack([wanted, np.zeros((8, 3))])
    expected = np.linalg.lstsq(rows, right, rcond=None)[0]
    np.testing.assert_allclose(of_weight.numpy(), expected[:-1].T, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(of_bias.numpy(), expected[-1], rtol=1e-6, atol=1e-9)


def test_singular_moments_get_jitter_and_indefinite_ones_are_refused():
    x = torch.ones(3, 5, dtype=torch.float64)
    factor = cholesky(x.T @ x)
    torch.testing.assert_close(factor @ factor.T, x.T @ x, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(solve(torch.zeros(4, 4, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64))).all()
    with pytest.raises(ValueError, match="not positive semidefinite"):
        cholesky(-torch.eye(3, dtype=torch.float64))
