"""Scales for each head: both folds keep every code and, in float64, every output."""

import pytest
import torch

from repq_deploy.models.architecture import ModelSpec
from repq_deploy.quant.layers import QuantAttention
from repq_deploy.rewrites.heads import fold_query_key_heads, fold_value_heads
from repq_deploy.steps import step
from tests.conftest import SPECS
from tests.steps.test_steps import calibration

OPERANDS = ("q", "k", "v", "p")


def double(family: str, bits: str, *further: str):
    """A model in float64 with a scale a head, after ``further`` steps; images too."""
    run = calibration(family, bits, count=2)
    step("ranges", attention="head", weights=False)(run)
    for name in further:
        step(name)(run)
    run.model.double()
    run.float_model.double()
    for ours, _ in attentions(run):
        # The largest output is a multiple of v's scale, and so is its own scale: without this, codes lie on ties.
        ours.proj.input_quantizer.scale *= 1.0371
    return run, run.images.double()


def attentions(run) -> list[tuple[QuantAttention, torch.nn.Module]]:
    models = (run.model.model, run.float_model)
    return [tuple(model.get_submodule(site.name) for model in models) for site in run.model.sites.attentions]


@torch.no_grad()
def unsigned_codes(run, images) -> dict[str, torch.Tensor]:
    """The codes of the literature, 0 to 2^bits - 1, of every operand and of proj's input, and the logits."""
    found = {}

    def note(quantizer, inputs, _):
        zero_point = getattr(quantizer, "zero_point", torch.tensor(0.0))
        if zero_point.ndim:
            shape = [1] * inputs[0].ndim
            shape[quantizer.axis] = -1
            zero_point = zero_point.reshape(shape)
        found[quantizer.site] = quantizer.codes(inputs[0]) + zero_point

    quantizers = [getattr(ours, f"{name}_quantizer") for ours, _ in attentions(run) for name in OPERANDS]
    quantizers += [ours.proj.input_quantizer for ours, _ in attentions(run)]
    handles = [quantizer.register_forward_hook(note) for quantizer in quantizers]
    found["logits"] = run.model(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_both_folds_keep_every_code_and_the_output(family, bits):
    run, images = double(family, bits)
    before, reference = unsigned_codes(run, images), run.float_model(images)
    for ours, theirs in attentions(run):
        assert ours.q_quantizer.scale.shape == ours.v_quantizer.scale.shape == (ours.site.heads,)
        spread = ours.k_quantizer.scale.max() / ours.k_quantizer.scale.min()
        assert spread > 1.001 or ours.site.heads == 1
        fold_value_heads(ours, theirs)
        fold_query_key_heads(ours)
        for quantizer in (ours.q_quantizer, ours.k_quantizer, ours.v_quantizer):
            assert quantizer.scale.shape == ()
            assert quantizer.zero_point == 2 ** (int(bits[1]) - 1)
        assert ours.proj.input_quantizer.scale.shape == ours.proj.input_quantizer.zero_point.shape == ()
        assert ours.logit_scale.shape == (ours.site.heads, 1, 1)
    after = unsigned_codes(run, images)
    for site in before.keys() - {"logits"}:
        assert torch.equal(before[site], after[site]), site
    assert (after["logits"] - before["logits"]).norm() / before["logits"].norm() < 1e-12
    assert (run.float_model(images) - reference).norm() / reference.norm() < 1e-12


@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_turned_keys_have_no_zero_point_that_a_bias_could_take(bits, monkeypatch):
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
    kwargs = {**small, "ref_feat_shape": (4, 4)}
    monkeypatch.setitem(SPECS, "eva", ModelSpec("tiny-eva", "eva02_tiny_patch14_224", kwargs, None, "random"))
    run, images = double("eva", bits)
    before = unsigned_codes(run, images)
    for ours, theirs in attentions(run):
        assert ours.site.between_qk == "rope"
        fold_value_heads(ours, theirs)
        fold_query_key_heads(ours)
    after = unsigned_codes(run, images)
    for site in before.keys() - {"logits"}:
        assert torch.equal(before[site], after[site]), site
    assert (after["logits"] - before["logits"]).norm() / before["logits"].norm() < 1e-12


def test_rounded_weights_of_q_and_k_keep_their_codes():
    run, images = double("vit", "w4a4", "fold", "weights")
    before = unsigned_codes(run, images)
    weights = [ours.qkv.weight_quantizer.codes(ours.qkv.weight) for ours, _ in attentions(run)]
    for ours, _ in attentions(run):
        fold_query_key_heads(ours)
    for (ours, _), codes in zip(attentions(run), weights, strict=True):
        assert torch.equal(ours.qkv.weight_quantizer.codes(ours.qkv.weight), codes)
    after = unsigned_codes(run, images)
    assert all(torch.equal(before[site], after[site]) for site in before.keys() - {"logits"})
    assert (after["logits"] - before["logits"]).norm() / before["logits"].norm() < 1e-10


@torch.no_grad()
def test_uneven_heads_lose_less_with_a_scale_each():
    errors = []
    for attention in ("tensor", "head"):
        run = calibration("vit", "w8a4", count=8)
        for model in (run.model.model, run.float_model):
            for block in model.blocks:
                block.attn.qkv.weight[:16] *= 6  # the first of three heads' q
                block.attn.qkv.weight[48:64] *= 6
                block.attn.qkv.weight[96:112] *= 6
        step("ranges", attention=attention)(run)
        step("fold")(run)
        exact = run.float_model(run.images)
        errors.append(float((run.model(run.images) - exact).norm() / exact.norm()))
    assert errors[1] < errors[0]
