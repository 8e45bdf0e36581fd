import numpy as np
import pytest
import torch

from repq_deploy.quant import ops


def unsigned_fake_quant(x, scale, zero_point, bits):
    """The literature's form, in NumPy: q = clip(round(x / s) + z, 0, 2^b - 1), x_hat = s (q - z)."""
    q = np.clip(np.rint(x / scale) + zero_point, 0, 2**bits - 1)
    return (q - zero_point) * scale


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("zero_point", [0, 1, 3])
def test_uniform_equals_the_numpy_oracle(bits, zero_point):
    x = np.random.default_rng(bits).normal(0, 2, 5000).astype(np.float32)
    scale = np.float32(0.37)
    ours = ops.fake_quantize(torch.tensor(x), torch.tensor(scale), torch.tensor(float(zero_point)), bits, None, "x")
    np.testing.assert_array_equal(ours.numpy(), unsigned_fake_quant(x, scale, zero_point, bits))
    assert len(np.unique(ours.numpy())) <= 2**bits


def test_per_channel_broadcasts_along_the_axis():
    x = torch.randn(6, 3, 5)
    scale, zero_point = torch.tensor([0.1, 0.2, 0.4]), torch.tensor([3.0, 8.0, 11.0])
    ours = ops.fake_quantize(x, scale, zero_point, 4, 1, "x")
    for channel in range(3):
        alone = ops.fake_quantize(x[:, channel], scale[channel], zero_point[channel], 4, None, "x")
        assert torch.equal(ours[:, channel], alone)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("steps", [1, 2])
def test_log2_equals_the_numpy_oracle(bits, steps):
    x = np.random.default_rng(bits).dirichlet(np.full(64, 0.1), 200).astype(np.float32)
    x[0, :2] = 0, 1
    scale = 0.93
    ours = ops.fake_quantize_log2(torch.tensor(x), torch.tensor(scale), bits, steps, "p").numpy()
    with np.errstate(divide="ignore"):
        exact = np.minimum(-steps * np.log2(x.astype(np.float64) / scale), 1e6)
    code = np.clip(np.rint(exact), 0, 2**bits - 1)
    expected = np.where(code == 2**bits - 1, 0, scale * 2.0 ** (-code / steps))
    ties = np.abs(exact % 1 - 0.5) < 1e-4
    np.testing.assert_allclose(ours[~ties], expected[~ties], rtol=1e-6)
    assert ours[0, 0] == 0
    assert len(np.unique(ours)) <= 2**bits


@pytest.mark.parametrize("steps", [1, 2])
def test_parity_is_exact(steps):
    """2^(-q / 2) is an exact power of two for even q and sqrt2 times one, in float32, for odd q (RepQ-ViT, eq. 15)."""
    codes = torch.arange(255.0)
    values = ops.log2_values(codes, torch.tensor(1.0), 8, steps)
    root = np.float32(np.sqrt(2))
    for q, value in enumerate(values.numpy()):
        whole = -(-q // steps)
        factor = root if whole * steps > q else np.float32(1)
        assert value == np.float32(factor * np.float64(2.0) ** -whole), q


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_gradients_are_straight_through_and_lsq(axis):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, generator=generator).mul_(3).requires_grad_()
    count = {None: (), 0: (4,), -1: (5,)}[axis]
    scale = (torch.rand(count, generator=generator) + 0.5).requires_grad_()
    zero_point = torch.full(count, 3.0)
    upstream = torch.randn(4, 5, generator=generator)
    ops.fake_quantize(x, scale, zero_point, 3, axis, "site").backward(upstream)
    along = scale.detach().numpy().reshape({None: (), 0: (4, 1), -1: (1, 5)}[axis])
    ratio = x.detach().numpy() / along
    codes = np.clip(np.rint(ratio), -3, 4)
    inside = (ratio >= -3.5) & (ratio <= 4.5)
    np.testing.assert_allclose(x.grad.numpy(), upstream.numpy() * inside)
    terms = upstream.numpy() * (codes - np.where(inside, ratio, 0))
    expected = {None: terms.sum(), 0: terms.sum(1), -1: terms.sum(0)}[axis]
    np.testing.assert_allclose(scale.grad.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_gradient_of_log2_is_straight_through():
    x = torch.rand(6, requires_grad=True)
    ops.fake_quantize_log2(x, torch.tensor(1.0), 4, 2, "site").backward(torch.arange(6.0))
    assert torch.equal(x.grad, torch.arange(6.0))


@pytest.mark.parametrize("contiguous", [True, False])
def test_large_tensors_are_quantized_like_small_ones(contiguous):
    x = torch.rand(3, 2**17 + 5) if contiguous else torch.rand(2**17 + 5, 3).T
    scale, zero_point = torch.tensor(0.11), torch.tensor(1.0)
    table = torch.rand(16)
    for op, *parameters in (
        (ops.fake_quantize, scale, zero_point, 4, None),
        (ops.fake_quantize_log2, scale, 4, 2),
        (ops.fake_quantize_curve, scale, torch.tensor(1.5), table, 4, "Atan", "tan"),
        (ops.fake_quantize_curve, scale, torch.tensor(-1.7), table, 4, "Log", "adalog"),
    ):
        by_rows = torch.stack([op(row, *parameters, "x") for row in x.split(1)]).squeeze(1)
        assert torch.equal(op(x, *parameters, "x"), by_rows)
