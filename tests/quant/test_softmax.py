import numpy as np
import pytest
import torch

from repq_deploy.quant import ops
from repq_deploy.quant.curves import CurveParameters
from repq_deploy.quant.ranges import log2_finder
from repq_deploy.quant.saved import load, save
from repq_deploy.quant.softmax import of_largest, softmax_finder, softmax_kind, softmax_quantizer
from tests.conftest import images_for, quantized_model


def probabilities() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (4 * torch.randn(8, 2, 30, 30, generator=generator)).softmax(-1)


@pytest.mark.parametrize("kind", ["tan", "adalog"])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_codes_and_values_are_nearest_in_the_quantizers_own_measure(kind, bits):
    x = probabilities()
    quantizer = softmax_quantizer(kind, "site", bits)
    quantizer.adopt(softmax_finder(quantizer)(x))
    last, ratio = 2**bits - 1, x.double().numpy() / float(quantizer.scale)
    factor = float(quantizer.factor)
    with np.errstate(divide="ignore"):
        if kind == "tan":
            shape = last / factor
            exact = last * np.arctan(ratio * np.tan(shape)) / shape
            table = float(quantizer.scale) * np.tan(shape * np.arange(last + 1) / last) / np.tan(shape)
        else:
            shape = -factor * np.log(2)
            exact = -shape * np.log2(ratio)
            table = float(quantizer.scale) * 2.0 ** (-np.arange(last + 1) / shape)
            table[-1] = 0
    codes = quantizer.codes(x).numpy()
    no_tie = np.abs(exact - np.floor(exact) - 0.5) > 1e-3
    assert np.array_equal(codes[no_tie], np.clip(np.rint(exact), 0, last)[no_tie])
    np.testing.assert_allclose(quantizer.values(quantizer.codes(x)).numpy(), table[codes], rtol=1e-6)
    assert torch.equal(quantizer(x), quantizer.values(quantizer.codes(x)))
    assert len(quantizer(x).unique()) <= 2**bits


@pytest.mark.parametrize(
    ("bits", "turned", "by_bits", "by_site"),
    [
        (3, False, "log2", "log2"),
        (5, True, "log2", "log2_max"),
        (6, True, "uniform", "uniform"),
        (8, False, "uniform", "uniform"),
    ],
)
def test_a_kind_that_depends_is_logarithmic_where_bits_are_few(bits, turned, by_bits, by_site):
    assert softmax_kind("by_bits", bits=bits, turned=turned) == by_bits
    assert softmax_kind("by_site", bits=bits, turned=turned) == by_site
    assert softmax_kind("tan", bits=bits, turned=turned) == "tan"


def test_adalog_holds_probabilities_above_those_of_the_calibration():
    quantizer = softmax_quantizer("adalog", "site", 4)
    x = probabilities()
    quantizer.adopt(softmax_finder(quantizer)(x.clamp(max=0.4)))
    assert quantizer(torch.ones(1)) == 1


def test_a_whole_number_of_steps_is_log_sqrt2():
    quantizer = softmax_quantizer("adalog", "site", 4)
    quantizer.adopt(CurveParameters(torch.tensor(1.0), torch.tensor(2.0)))
    expected = ops.log2_codes(probabilities(), quantizer.scale, 4, 2)
    assert torch.equal(quantizer.codes(probabilities()).float(), expected)


@pytest.mark.parametrize("bits", [3, 4])
def test_the_tangent_has_less_error_than_uniform_and_logarithms(bits):
    """On peaked attention, as methods of that kind report."""
    x = probabilities()

    def error(kind: str) -> float:
        quantizer = softmax_quantizer(kind, "site", bits)
        quantizer.adopt(softmax_finder(quantizer)(x))
        return float((quantizer(x) - x).square().mean())

    assert error("tan") < min(error("uniform"), error("log2"), error("log_sqrt2"))


def test_the_largest_probability_is_kept_by_the_tangent():
    quantizer = softmax_quantizer("tan", "site", 4)
    quantizer.adopt(softmax_finder(quantizer)(probabilities()))
    assert quantizer.table[-1] == pytest.approx(float(quantizer.scale), rel=1e-6)
    assert log2_finder(4, 2)(probabilities()) > 0


def logits_of(model, family: str, site: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What attention's quantizers of p and v are given at ``site``, the codes of p, and what proj is given."""
    found = {}
    attention = model.model.get_submodule(site)
    handles = [
        attention.p_quantizer.register_forward_hook(lambda one, inputs, _: found.update(p=inputs[0])),
        attention.v_quantizer.register_forward_hook(lambda one, inputs, output: found.update(v=output)),
        attention.proj.register_forward_pre_hook(lambda one, inputs: found.update(y=inputs[0])),
    ]
    with torch.no_grad():
        model(images_for(family))
    for handle in handles:
        handle.remove()
    return found["p"], attention.p_quantizer.codes(found["p"]), found["v"], found["y"]


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("bits", ["w4a4", "w3a3", "w8a8"])
def test_powers_of_the_rows_largest_are_divided_by_their_sum(family, bits):
    """Against NumPy in float64: codes, at most 2^bits levels, and the product."""
    model = quantized_model(family, bits, softmax="log2_max")
    attention = next(iter(model.attentions()))
    p, codes, v, y = logits_of(model, family, attention.site.name)
    last = 2 ** int(bits[1]) - 1
    assert float(attention.p_quantizer.scale) == 1
    assert torch.all(p.amax(-1) == 1)
    with np.errstate(divide="ignore"):
        exact = -np.log2(p.double().numpy())
    tie = np.abs(exact - np.floor(exact) - 0.5) < 1e-4
    expected = np.clip(np.rint(exact), 0, last)
    assert np.array_equal(codes.numpy()[~tie], expected[~tie])
    assert len(codes.unique()) <= 2 ** int(bits[1])
    assert np.all(codes.numpy().min(-1) == 0)
    powers = np.where(codes.numpy() == last, 0, 2.0 ** -codes.double().numpy())
    product = powers @ v.double().numpy() / powers.sum(-1, keepdims=True)
    product = product.transpose(0, 2, 1, 3).reshape(y.shape)
    np.testing.assert_allclose(y.numpy(), product, rtol=1e-5, atol=1e-6)


def test_rows_need_no_likeness():
    """One scale for all rows leaves flat ones without a code; each row's largest gives them all."""
    rows = torch.stack([torch.zeros(600), torch.cat([torch.full((1,), 20.0), torch.zeros(599)])])
    fixed, own = (softmax_quantizer(kind, "p", 3) for kind in ("log2", "log2_max"))
    fixed.adopt(softmax_finder(fixed)(rows.softmax(-1)))
    own.adopt(softmax_finder(own, relative=True)(of_largest(rows)))
    assert not fixed(rows.softmax(-1))[0].any()
    assert torch.all(own(of_largest(rows))[0] == 1)


def test_a_saved_model_keeps_how_its_rows_are_divided(tmp_path):
    model = quantized_model("vit", "w4a4", softmax="log2_max")
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    assert all(attention.relative for attention in loaded.attentions())
    with torch.no_grad():
        assert torch.equal(loaded(images_for("vit")), model(images_for("vit")))
