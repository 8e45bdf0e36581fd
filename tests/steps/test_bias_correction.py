"""Bias correction: afterwards no layer's output is off in the mean."""

import pytest
import torch

from repq_deploy.calibration.run import captured_inputs, walk
from repq_deploy.quant.ranges import RANGES
from repq_deploy.steps import step
from tests.steps.test_steps import calibration, error


@torch.no_grad()
def mean_errors(run) -> dict[str, float]:
    """The mean error of each layer's output, over its size, computed by running both layers."""
    found = {}
    for position in walk(run, "checking"):
        for site, layer in position.linears(run.model):
            reference = run.float_model.get_submodule(site.name)
            (x,) = captured_inputs(position.stage, position.inputs, [layer])
            (theirs,) = captured_inputs(position.float_stage, position.float_inputs, [reference])
            wanted, given = reference(theirs).double(), layer(x).double()
            axes = (0, 2, 3) if site.role == "patch_embed" else tuple(range(wanted.ndim - 1))
            found[site.name] = float((given - wanted).mean(axes).norm() / wanted.square().mean(axes).sqrt().norm())
    return found


def test_the_mean_error_of_every_layer_is_gone(family):
    run = calibration(family, "w3a3")
    step("ranges")(run)
    step("fold")(run)
    before = mean_errors(run)
    step("bias_correction")(run)
    after = mean_errors(run)
    assert max(before.values()) > 1e-3
    assert max(after.values()) < 1e-5
    assert all(layer.bias is not None for _, layer, _ in run.model.linears())


def test_it_lowers_the_error():
    run = calibration("vit", "w3a3", count=32)
    step("ranges")(run)
    step("fold")(run)
    before = error(run)
    step("bias_correction")(run)
    assert error(run) < before


@pytest.mark.parametrize(
    "options",
    [{}, {"rounding": "gptq"}, {"ridge": 1.0, "rounding": "adaround"}],
    ids=["nearest", "gptq", "ridge-adaround"],
)
def test_weights_rounded_behind_the_same_prefix_leave_nothing_to_correct(family, options):
    run = calibration(family)
    step("ranges", weights=False)(run)
    step("fold")(run)
    step("weights", **options)(run)
    assert max(mean_errors(run).values()) < 1e-5


@pytest.mark.parametrize("kind", ["minmax", "percentile"])
def test_fold_searches_weights_again_as_ranges_did(kind):
    run = calibration("vit", "w4a4")
    with torch.no_grad():
        for block in run.model.model.blocks:
            block.attn.qkv.weight[:, 3] *= 20  # an outlier that percentiles clip
    step("ranges", find=kind)(run)
    step("fold")(run)
    for block in run.model.model.blocks:
        layer = block.attn.qkv
        symmetric = run.model.bits.symmetric_weights(4)
        expected = RANGES[kind](4, axis=0, symmetric=symmetric)(layer.weight)
        torch.testing.assert_close(layer.weight_quantizer.scale, expected.scale)
        other = RANGES["minmax" if kind == "percentile" else "percentile"](4, axis=0, symmetric=symmetric)
        assert not torch.equal(expected.scale, other(layer.weight).scale)
