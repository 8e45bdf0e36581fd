"""The logarithmic quantizer of post-GELU activations, against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from repq_deploy.errors import BadInput
from repq_deploy.models.sites import LinearSite
from repq_deploy.quant.curves import CurveQuantizer
from repq_deploy.quant.layers import QuantLinear
from repq_deploy.quant.ranges import minmax_finder, percentile_finder
from repq_deploy.rewrites.gelu import SHIFT, use_adalog
from repq_deploy.steps import step
from tests.steps.test_steps import calibration

SITE = LinearSite("mlp.fc2", "fc2", after_gelu=True)


def shifted_layer(bits: int, *, bias: bool = True):
    generator = torch.Generator().manual_seed(0)
    x = nn.functional.gelu(torch.randn(300, 48, generator=generator) - 1)
    torch.manual_seed(0)
    linear = nn.Linear(48, 10, bias=bias).requires_grad_(False)
    original = linear.bias
    layer = QuantLinear(linear, name="mlp.fc2", weight_bits=4, activation_bits=bits)
    layer.weight_quantizer.adopt(minmax_finder(4, axis=0, symmetric=True)(layer.weight))
    find = use_adalog(SITE, layer)
    layer.input_quantizer.adopt(find(x + layer.shift))
    return layer, x, original


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_with_the_shift_is_positive(approximate):
    x = torch.linspace(-30, 30, 2_000_001)
    assert (nn.functional.gelu(x, approximate=approximate) + SHIFT).min() > 1e-5


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_a_product_of_table_values_without_the_shift(bits, bias):
    layer, x, original = shifted_layer(bits, bias=bias)
    y = layer(x).double().numpy()
    quantizer = layer.input_quantizer
    assert isinstance(quantizer, CurveQuantizer)
    scale, steps, last = float(quantizer.scale), -float(quantizer.factor) * np.log(2), 2**bits - 1
    given = (x + layer.shift).double().numpy()
    exact = -steps * np.log2(given / scale)
    codes = quantizer.codes(x + layer.shift).numpy()
    no_tie = np.abs(exact - np.floor(exact) - 0.5) > 1e-3
    assert np.array_equal(codes[no_tie], np.clip(np.rint(exact), 0, last)[no_tie])
    values = np.where(codes == last, 0, scale * 2.0 ** (-codes / steps))
    weight = layer.weight_quantizer(layer.weight).double().numpy()
    expected = (values - float(layer.shift)) @ weight.T + (0 if original is None else original.double().numpy())
    np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("bits", [3, 4])
def test_its_squared_error_is_below_that_of_a_uniform_grid(bits):
    layer, x, _ = shifted_layer(bits)
    given = x + layer.shift
    error = (layer.input_quantizer(given) - given).square().mean()
    found = percentile_finder(bits)(x)
    uniform = torch.clamp(torch.round(x / found.scale), -found.zero_point, 2**bits - 1 - found.zero_point) * found.scale
    assert error < (uniform - x).square().mean()


def test_a_model_without_gelu_is_refused():
    run = calibration("vit")
    for block in run.model.model.blocks:
        block.mlp.act = nn.ReLU()
    run.model.sites = type(run.model.sites)(
        tuple(LinearSite(s.name, s.role, s.norm) for s in run.model.sites.linears), run.model.sites.attentions
    )
    with pytest.raises(BadInput, match="no linear of this model reads a GELU"):
        step("ranges", gelu="adalog")(run)


def test_only_what_reads_a_gelu_is_logarithmic(family):
    run = calibration(family)
    step("ranges", gelu="adalog")(run)
    for site, layer, _ in run.model.linears():
        assert isinstance(layer.input_quantizer, CurveQuantizer) == (site.role == "fc2"), site.name
        assert (layer.shift is not None) == (site.role == "fc2")
    assert torch.isfinite(run.model(run.images)).all()
