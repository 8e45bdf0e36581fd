import numpy as np
import pytest
import torch

from repq_deploy.quant import ops
from repq_deploy.quant.quantizers import UniformParameters
from repq_deploy.quant.ranges import PERCENTILES, log2_finder, minmax_finder, mse_finder, percentile_finder, quantiles


@pytest.mark.parametrize("count", [7, 400, 5001])
def test_quantiles_equal_torch(count):
    x = torch.randn(5, count)
    upper = torch.quantile(x, torch.tensor(PERCENTILES, dtype=x.dtype), dim=1)
    lower = torch.quantile(x, 1 - torch.tensor(PERCENTILES, dtype=torch.float64).to(x.dtype), dim=1)
    torch.testing.assert_close(quantiles(x, PERCENTILES, largest=True), upper, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(quantiles(x, PERCENTILES, largest=False), lower, rtol=1e-3, atol=1e-3)


def test_quantiles_equal_numpy_in_float64():
    x = torch.randn(3, 1234, dtype=torch.float64)
    expected = np.quantile(x.numpy(), PERCENTILES, axis=1)
    np.testing.assert_allclose(quantiles(x, PERCENTILES, largest=True).numpy(), expected, rtol=1e-9)


def reference_search(x: np.ndarray, bits: int) -> tuple[float, float]:
    """RepQ-ViT's search on one channel, as its paper's code does it, in NumPy."""
    best = (np.inf, 0.0, 0.0)
    for percentile in PERCENTILES:
        high, low = np.quantile(x, percentile), np.quantile(x, 1 - percentile)
        scale = (high - low) / (2**bits - 1)
        zero_point = np.rint(-low / scale)
        codes = np.clip(np.rint(x / scale) + zero_point, 0, 2**bits - 1)
        error = np.mean(((codes - zero_point) * scale - x) ** 2)
        best = min(best, (error, scale, zero_point))
    return best[1:]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_percentile_search_equals_the_reference_loop(bits):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 12, generator=generator) * torch.linspace(0.1, 5, 12) + torch.linspace(-2, 2, 12)
    x[::700] *= 8
    found = percentile_finder(bits, axis=-1, spans_zero=False)(x)
    for channel in range(12):
        scale, zero_point = reference_search(x[:, channel].double().numpy(), bits)
        assert found.scale[channel].item() == pytest.approx(scale, rel=1e-5)
        assert found.zero_point[channel].item() == zero_point


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_mse_search_clips_a_normal_distribution_where_it_should_be(bits):
    """Against every clipping point; the percentiles of RepQ-ViT are too wide below 5 bits."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))

    def error(found: UniformParameters) -> float:
        values = ops.uniform_values(ops.uniform_codes(x, found.scale, found.zero_point, bits, None), found.scale, None)
        return float((values - x).square().mean())

    best = min(error(_parameters(-clip, clip, bits)) for clip in torch.linspace(0.8, 5, 200))
    assert error(mse_finder(bits)(x)) < 1.05 * best
    if bits < 4:
        assert error(percentile_finder(bits)(x)) > 1.3 * best


def _parameters(low: torch.Tensor, high: torch.Tensor, bits: int) -> UniformParameters:
    scale = (high - low) / (2**bits - 1)
    return UniformParameters(scale, torch.round(-low / scale))


def test_whole_zero_points_and_codes_that_span_zero():
    found = percentile_finder(4)(torch.rand(1000) + 3)
    assert found.zero_point == 0
    found = minmax_finder(4)(-torch.rand(1000) - 3)
    assert found.zero_point == 15


def test_symmetric_codes_are_centred():
    weight = torch.randn(8, 100)
    found = minmax_finder(4, axis=0, symmetric=True)(weight)
    assert torch.equal(found.zero_point, torch.full((8,), 8.0))
    codes = ops.uniform_codes(weight, found.scale, found.zero_point, 4, 0)
    assert codes.min() >= -8
    assert codes.max() <= 7


@pytest.mark.parametrize("value", [0.0, 2.5, -7.0])
def test_constant_channels_are_represented(value):
    x = torch.full((100, 2), value)
    found = percentile_finder(4, axis=-1, spans_zero=False)(x)
    assert torch.isfinite(found.scale).all()
    assert (found.scale > 0).all()
    codes = ops.uniform_codes(x, found.scale, found.zero_point, 4, -1)
    torch.testing.assert_close(codes * found.scale, x)


def test_log2_search_keeps_the_candidate_with_the_lowest_error():
    p = torch.distributions.Dirichlet(torch.full((50,), 0.2)).sample((100,))
    scale = log2_finder(4, 2)(p)
    errors = {
        float(candidate): float((ops.fake_quantize_log2(p, candidate, 4, 2, "p") - p).square().mean())
        for candidate in quantiles(p.reshape(1, -1), PERCENTILES, largest=True)[:, 0]
    }
    assert errors[float(scale)] == min(errors.values())


@pytest.mark.parametrize("power", [1, 9])
def test_long_rows_are_thinned_out_exactly(monkeypatch, power):
    x = torch.rand(1, 400_001, dtype=torch.float64) ** power
    expected = {largest: quantiles(x, PERCENTILES, largest=largest) for largest in (True, False)}
    monkeypatch.setattr("repq_deploy.quant.ranges._SAMPLE", 100_000)
    for largest, values in expected.items():
        assert torch.equal(quantiles(x, PERCENTILES, largest=largest), values)
    flat = torch.full((1, 400_001), 0.5)
    assert torch.equal(quantiles(flat, PERCENTILES, largest=True), torch.full((4, 1), 0.5))


def test_a_sample_of_a_long_tensor_finds_nearly_the_same_scale(monkeypatch):
    probabilities = torch.randn(64, 4, 30, 30, generator=torch.Generator().manual_seed(0)).mul_(4).softmax(-1)
    whole = log2_finder(4, 2)(probabilities), percentile_finder(4)(probabilities).scale
    monkeypatch.setattr("repq_deploy.quant.ranges._SAMPLE", 20_000)
    sampled = log2_finder(4, 2)(probabilities), percentile_finder(4)(probabilities).scale
    assert sampled == whole
