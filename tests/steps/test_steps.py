import copy
from dataclasses import replace
from itertools import accumulate

import pytest
import torch

from repq_deploy.bits import BitWidths
from repq_deploy.calibration.losses import LOSSES
from repq_deploy.calibration.resume import WorkFolder
from repq_deploy.calibration.run import Calibration, captured_inputs, walk
from repq_deploy.calibration.statistics import gather, rows_of
from repq_deploy.devices import CPU
from repq_deploy.errors import BadInput
from repq_deploy.models.families import stages
from repq_deploy.models.zoo import create
from repq_deploy.quant import ops
from repq_deploy.quant.model import wrap
from repq_deploy.steps import step
from tests.conftest import SPECS, float_model, images_for


def calibration(family: str, bits: str = "w4a4", count: int = 8, softmax: str = "log_sqrt2") -> Calibration:
    model = float_model(family)
    reference = copy.deepcopy(model).requires_grad_(False)
    quantized = wrap(model, SPECS[family], BitWidths.parse(bits), softmax=softmax)
    work = WorkFolder(None)
    return Calibration(quantized, reference, images_for(family, count), 0, lambda *_: None, work)


@torch.no_grad()
def error(run: Calibration) -> float:
    exact = run.float_model(run.images)
    return float((run.model(run.images) - exact).norm() / exact.norm())


@torch.no_grad()
def codes(run: Calibration) -> torch.Tensor:
    layer = run.model.model.get_submodule("blocks.1.mlp.fc1")
    return torch.round(layer.weight / layer.weight_quantizer.scale.view(-1, 1))


def test_a_walk_gives_each_stage_the_inputs_of_both_models(family):
    run = calibration(family)
    for name in ("ranges", "fold"):
        step(name)(run)
    reached = list(walk(run, "walking"))
    assert torch.equal(reached[0].inputs, run.images)
    with torch.no_grad():
        theirs = reached[-1].float_stage.forward(reached[-1].float_inputs)
        torch.testing.assert_close(theirs, run.float_model(run.images))
        assert torch.isfinite(reached[-1].stage.forward(reached[-1].inputs)).all()
    held = [site.name for position in reached for site, _ in position.linears(run.model)]
    assert sorted(held) == sorted(site.name for site in run.model.sites.linears)


def test_statistics_equal_the_plain_sums(family):
    run = calibration(family)
    step("ranges", weights=False)(run)
    step("fold")(run)
    for position in walk(run, "walking"):
        for site, layer in position.linears(run.model):
            if site.role != "fc2":
                continue
            statistics = gather(run, position, site, layer)
            reference = run.float_model.get_submodule(site.name)
            (x,) = captured_inputs(position.stage, position.inputs, [layer])
            (theirs,) = captured_inputs(position.float_stage, position.float_inputs, [reference])
            x = layer.input_quantizer(x if layer.shift is None else x + layer.shift).flatten(0, -2).double()
            wanted = reference(theirs).flatten(0, -2).double()
            missing = wanted - x @ layer.weight.double().T - layer.bias.double()
            ones = torch.cat([x, torch.ones(len(x), 1)], dim=1)
            torch.testing.assert_close(statistics.moment, ones.T @ ones / len(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(statistics.error, ones.T @ missing / len(x), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(statistics.mean, x.mean(0), rtol=1e-4, atol=1e-5)
            covariance = torch.cov(x.T, correction=0)
            torch.testing.assert_close(statistics.covariance, covariance, rtol=1e-3, atol=1e-4)


def test_the_covariance_of_inputs_far_from_zero_is_exact():
    run = calibration("vit", "w8a8", count=16)
    step("ranges", weights=False)(run)
    step("fold")(run)
    position = next(position for position in walk(run, "walking") if position.stage.name == "blocks.1")
    site, layer = position.linears(run.model)[-1]
    layer.shift = torch.tensor(1000.0)
    layer.input_quantizer.enabled = False
    (x,) = captured_inputs(position.stage, position.inputs, [layer])
    covariance = gather(run, position, site, layer).covariance
    expected = torch.cov((x.flatten(0, -2) + 1000).double().T, correction=0)
    torch.testing.assert_close(covariance, expected, rtol=1e-3, atol=1e-4 * float(expected.diagonal().mean()))


def layer_errors(**options) -> list[float]:
    """Mean squared error of the output of each of the first block's layers, behind what the step made of the others."""
    run = calibration("vit", count=32)
    step("ranges", weights=False)(run)
    step("fold")(run)
    step("weights", **options)(run)
    position = next(position for position in walk(run, "walking") if position.stage.name == "blocks.0")
    errors = []
    for site, layer in position.linears(run.model):
        pairs = rows_of(run, position, site, layer)
        weight = layer.weight_quantizer(layer.weight)
        errors.append(float(torch.cat([y - x @ weight.T - layer.bias for x, y in pairs]).square().mean()))
    return errors


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"ridge": 0.3}, {}),
        ({"rounding": "gptq"}, {}),
        ({"ridge": 0.3, "rounding": "gptq"}, {"ridge": 0.3}),
        ({"ridge": 0.3, "rounding": "refined"}, {"ridge": 0.3}),
    ],
    ids=["ridge", "gptq", "gptq after ridge", "refined after ridge"],
)
def test_each_part_of_the_step_lowers_the_error_of_every_layer(better, worse):
    pairs = zip(layer_errors(**better), layer_errors(**worse), strict=True)
    assert all(found < before for found, before in pairs)


def test_only_behind_a_float_prefix_a_layer_does_not_see_the_error_before_it():
    found = {}
    for scrambled in (False, True):
        run = calibration("vit", count=16)
        step("ranges", weights=False)(run)
        step("fold")(run)
        if scrambled:
            run.model.model.patch_embed.proj.weight.mul_(1.5)
        for position in walk(run, "walking"):
            for site, layer in position.linears(run.model):
                for prefix in ("float", "quantized"):
                    found[scrambled, prefix, site.name] = gather(run, position, site, layer, prefix=prefix)
    names = [site.name for site in run.model.sites.linears[1:]]
    for name in names:
        for part in ("moment", "error"):
            at = {
                (scrambled, prefix): getattr(found[scrambled, prefix, name], part)
                for scrambled in (False, True)
                for prefix in ("float", "quantized")
            }
            assert torch.equal(at[True, "float"], at[False, "float"])
            assert not torch.allclose(at[True, "quantized"], at[False, "quantized"], rtol=1e-2)


def test_the_folded_scale_is_a_gauge():
    """DopQ-ViT's median and RepQ-ViT's mean give the same model (methods that quantize weights after the fold)."""
    outputs = []
    for target in ("mean", "median"):
        run = calibration("vit")
        step("ranges", weights=False)(run)
        step("fold", target=target)(run)
        step("weights")(run)
        outputs.append(run.model(run.images))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("family", "name"), [("vit", "blocks.0.mlp.fc1"), ("swin", "layers.1.downsample.reduction")])
def test_dual_clipping_lowers_the_error_of_a_post_norm_linear(family, name):
    errors = []
    for clip in (False, True):
        run = replace(calibration(family, "w8a3", count=32), seed=2**40)
        step("ranges", find="minmax", weights=False)(run)
        if clip:
            step("dual_clip", steps=60, rate=2e-2)(run)
        position = next(position for position in walk(run, "walking") if position.stage.holds(name))
        layer = run.model.model.get_submodule(name)
        (x,) = captured_inputs(position.stage, position.inputs, [layer])
        errors.append(float(((layer.input_quantizer(x) - x) @ layer.weight.T).square().mean()))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    "options",
    [
        {"unit": "model", "loss": "feature"},
        {"unit": "block", "loss": "mse", "drop": 0.5},
        {"unit": "block", "loss": "fisher"},
        {"unit": "block", "loss": "feature"},
    ],
    ids=lambda options: f"{options['unit']}-{options['loss']}",
)
def test_reconstruction_lowers_the_error(options):
    run = calibration("vit", "w4a4", count=32)
    for name, settings in (("ranges", {"weights": False}), ("fold", {}), ("weights", {})):
        step(name, **settings)(run)
    before, weights = error(run), codes(run)
    step("reconstruct", epochs=25, batch=16, weight_rate=3e-2, scale_rate=2e-3, **options)(run)
    assert error(run) < before
    assert (codes(run) != weights).float().mean() > 0.02
    assert not any(tensor.requires_grad for tensor in run.model.state_dict(keep_vars=True).values())


def test_reconstruction_quantizes_in_float32(monkeypatch):
    run = calibration("vit")
    step("ranges")(run)
    step("fold")(run)
    seen = set()
    fake_quantize_log2 = ops.fake_quantize_log2
    monkeypatch.setattr(
        ops, "fake_quantize_log2", lambda x, *others: seen.add(x.dtype) or fake_quantize_log2(x, *others)
    )
    step("reconstruct", epochs=1, batch=4)(run)
    assert seen == {torch.float32}


def test_reconstruction_leaves_units_of_enough_bits_alone():
    run = calibration("vit", "w3a3,blocks.0.*=w4a4")
    for name, settings in (("ranges", {"weights": False}), ("fold", {}), ("weights", {})):
        step(name, **settings)(run)
    before = copy.deepcopy(run.model.state_dict())
    step("reconstruct", unit="block", epochs=1, batch=4, below=4)(run)
    changed = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "model.blocks.1.mlp.fc1.weight" in changed
    assert not any(name.startswith("model.blocks.0.") for name in changed)


def test_scales_stay_positive_however_long_they_are_trained():
    run = calibration("vit")
    with torch.no_grad():
        run.model.model.blocks[1].mlp.fc1.weight[0] *= 1e-6  # a row next to dead
    for name, settings in (("ranges", {"weights": False}), ("fold", {}), ("weights", {})):
        step(name, **settings)(run)
    step("reconstruct", epochs=20, batch=4, scale_rate=0.2)(run)
    scales = [value for name, value in run.model.state_dict().items() if name.endswith("scale")]
    assert scales
    assert all((scale > 0).all() for scale in scales)


@pytest.mark.parametrize(
    ("options", "warned"), [({"epochs": 4}, True), ({"epochs": 40}, False), ({"epochs": 4, "below": 4}, False)]
)
def test_too_few_steps_to_change_a_code_are_warned_of(caplog, options, warned):
    run = calibration("vit")
    for name, settings in (("ranges", {"weights": False}), ("fold", {}), ("weights", {})):
        step(name, **settings)(run)
    step("reconstruct", batch=4, weight_rate=0.02, **options)(run)
    assert ("of its grid, and 0.5 changes a code" in caplog.text) is warned


def test_a_training_that_diverges_says_so():
    run = calibration("vit")
    for name, settings in (("ranges", {"weights": False}), ("fold", {}), ("weights", {})):
        step(name, **settings)(run)
    with pytest.raises(BadInput, match=r"training diverged .* give it a lower weight_rate .* scale_rate \(1e\+30\)"):
        step("reconstruct", epochs=20, batch=4, scale_rate=1e30)(run)


def test_features_are_compared_in_size_as_well_where_there_are_no_classes():
    """Probabilities made of them would not see a constant that is added to each."""
    headless = replace(SPECS["dinov2"], kwargs={**SPECS["dinov2"].kwargs, "num_classes": 0})
    model = create(headless, seed=1)
    images = images_for("dinov2")
    unit = stages(model)
    measure = LOSSES["feature"](unit, [], images, CPU)
    outputs = list(accumulate(unit, lambda x, stage: stage.forward(x), initial=images))[1:]
    everything = torch.arange(len(images))
    outputs = [output.detach() for output in outputs]
    assert measure(outputs, everything) == pytest.approx(0, abs=1e-6)
    shifted = [*outputs[:-1], outputs[-1] + outputs[-1].square().mean().sqrt()]
    assert measure(shifted, everything) == pytest.approx(1, rel=1e-3)
    with pytest.raises(BadInput, match="loss fisher: this model ends in features"):
        LOSSES["fisher"](unit, [], images, CPU)


def test_reconstruction_runs_on_every_family(family):
    run = calibration(family)
    for name, settings in (("ranges", {"weights": False}), ("fold", {}), ("weights", {})):
        step(name, **settings)(run)
    step("reconstruct", unit="block", epochs=1, batch=4)(run)
    assert torch.isfinite(run.model(run.images)).all()


def test_unknown_steps_and_options_are_refused():
    with pytest.raises(BadInput, match=r"step 'gptqq': expected one of .*weights"):
        step("gptqq")
    with pytest.raises(BadInput, match="step weights: option 'rigde'"):
        step("weights", rigde=1)
