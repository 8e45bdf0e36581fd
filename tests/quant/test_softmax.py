import numpy as np
import pytest
import torch

from repq_deploy.quant import ops
from repq_deploy.quant.curves import CurveParameters
from repq_deploy.quant.ranges import log2_finder
from repq_deploy.quant.softmax import softmax_finder, softmax_quantizer


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


@pytest.mark.parametrize(("bits", "kind"), [(3, "log2"), (5, "log2"), (6, "uniform"), (8, "uniform")])
def test_by_bits_is_logarithmic_where_bits_are_few(bits, kind):
    chosen, same = (softmax_quantizer(one, "p", bits) for one in ("by_bits", kind))
    assert type(chosen) is type(same)
    assert getattr(chosen, "steps_per_octave", None) == getattr(same, "steps_per_octave", None)


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
