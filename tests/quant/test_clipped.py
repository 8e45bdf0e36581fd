"""Clipped channel ranges: the cap, what it leaves alone, and the choice of kappa by the folded layer's output."""

import copy
import math

import pytest
import torch
from torch import nn

from repq_deploy.quant.clipped import KAPPAS, clip_channels, clipped_channel_finder
from repq_deploy.quant.layers import QuantLinear
from repq_deploy.quant.ranges import percentile_finder
from repq_deploy.rewrites.folds import fold_post_norm

BITS = 4


def wide_channels() -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(600, 32) + torch.randn(32)
    x[:, :3] *= torch.tensor([10.0, 20.0, 40.0])
    return x


def folded_error(x: torch.Tensor, linear: nn.Linear, found) -> float:
    """Squared error of the layer's output, of a norm that gives ``x`` folded for real."""
    norm = nn.LayerNorm(x.shape[1])
    norm.weight.data, norm.bias.data = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
    layer = QuantLinear(copy.deepcopy(linear), name="x", weight_bits=BITS, activation_bits=BITS)
    layer.input_quantizer.axis = -1
    layer.input_quantizer.adopt(found)
    fold_post_norm(norm, layer)
    layer.weight_quantizer.adopt(percentile_finder(BITS, axis=0)(layer.weight))
    with torch.no_grad():
        return float((layer(x * norm.weight + norm.bias) - linear(x)).square().mean())


def test_scales_are_capped_and_the_others_stay():
    x = wide_channels()
    found = percentile_finder(BITS, axis=-1, spans_zero=False)(x)
    clipped = clip_channels(found, x, 3.0, BITS)
    cap = 3 * found.scale.median()
    assert (found.scale > cap).sum() == 3
    torch.testing.assert_close(clipped.scale, found.scale.clamp_max(cap))
    assert torch.equal(clipped.zero_point[3:], found.zero_point[3:])
    assert torch.equal(clipped.zero_point, clipped.zero_point.round())
    # A capped range still lies around its channel's mean, inside of what it was.
    low, high = -clipped.zero_point * clipped.scale, (15 - clipped.zero_point) * clipped.scale
    assert ((low < x.mean(dim=0)) & (x.mean(dim=0) < high))[:3].all()
    assert (low[:3] >= (-found.zero_point * found.scale - 0.5 * clipped.scale)[:3]).all()


def test_no_cap_changes_nothing():
    x = wide_channels()
    found = percentile_finder(BITS, axis=-1, spans_zero=False)(x)
    clipped = clip_channels(found, x, math.inf, BITS)
    assert torch.equal(clipped.scale, found.scale)
    assert torch.equal(clipped.zero_point, found.zero_point)


@torch.no_grad()
def test_kappa_is_the_one_with_the_least_error_of_the_folded_layer():
    x = wide_channels()
    torch.manual_seed(1)
    linear = nn.Linear(32, 24)
    found = percentile_finder(BITS, axis=-1, spans_zero=False)(x)
    errors = [folded_error(x, linear, clip_channels(found, x, kappa, BITS)) for kappa in KAPPAS]
    chosen = clipped_channel_finder(BITS, weight=linear.weight, weight_bits=BITS, symmetric=False)(x)
    assert folded_error(x, linear, chosen) == pytest.approx(min(errors), rel=1e-4)
    assert min(errors) <= errors[-1]
