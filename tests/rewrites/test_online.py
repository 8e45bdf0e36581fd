"""q and k behind what turns or norms them, and products of gated MLPs, are rotated: outliers go, the model stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import repq_deploy
from repq_deploy.engines.source import read_source
from repq_deploy.methods import find_method
from repq_deploy.quant import saved
from repq_deploy.quant.layers import RotatedOutput
from repq_deploy.quant.model import QuantizedModel
from repq_deploy.rewrites.online import rotate_products_online, rotate_qk_online
from repq_deploy.steps import step
from tests.models.families.small import images_of, small

#: RoPE of one table, of a table for each head, a norm alone, and a norm before RoPE.
TURNED = {
    "rope": ("eva02_base_patch14_448", {}),
    "mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "norm": ("vit_relpos_small_patch16_rpn_224", {"qk_norm": True}),
    "both": ("vit_small_patch16_dinov3_qkvb", {"qk_norm": True}),
}
#: One linear for gate and value, two linears, and no rotation by position.
GATED = {
    "packed": ("eva02_tiny_patch14_224", {"patch_size": 16, "ref_feat_shape": (2, 2)}),
    "two": ("vit_small_plus_patch16_dinov3", {}),
    "giant": ("vit_giant_patch14_dinov2", {"patch_size": 16}),
}
MODELS = {**TURNED, **GATED}


def quantized(kind: str, bits: str, method: str = "minmax") -> tuple[QuantizedModel, torch.Tensor]:
    architecture, options = MODELS[kind]
    model = small(architecture, **options)
    images = images_of(model)
    return repq_deploy.quantize(model, images, bits=bits, method=method), images


def rotated(model: QuantizedModel) -> list[bool]:
    return [isinstance(attention.rotate, RotatedOutput) for attention in model.attentions()]


@pytest.mark.parametrize("kind", TURNED)
@torch.no_grad()
def test_the_model_stays_and_an_outlier_goes(kind):
    model, images = quantized(kind, "w4a4")
    for quantizer in model.quantizers().values():
        quantizer.enabled = False
    seen: list[torch.Tensor] = []
    first = next(model.attentions())
    first.qkv.weight[0] *= 50  # a channel of the first head's q
    first.k_quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    first.q_quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mT))
    expected = model(images)
    rotate_qk_online(model.attentions(), seed=0, below=5)
    assert rotated(model) == [True, True]
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-4)
    q, k, q_rotated, k_rotated = seen
    for before, after in ((q, q_rotated), (k, k_rotated)):
        torch.testing.assert_close(after.norm(dim=-2), before.norm(dim=-2), rtol=1e-3, atol=1e-4)
    if kind == "rope":  # a norm takes some of an outlier away itself
        assert q_rotated.abs().max() < 0.9 * q.abs().max()


def test_many_bits_and_what_weights_absorb_are_left_alone():
    model, _ = quantized("rope", "w6a6", "best")
    assert (rotated(model), model.online) == ([False, False], "")
    rotate_qk_online(model.attentions(), seed=0, below=6)
    assert rotated(model) == [False, False]
    rotate_qk_online(model.attentions(), seed=0, below=7)
    assert rotated(model) == [True, True]
    plain = small("vit_tiny_patch16_224")
    assert rotated(repq_deploy.quantize(plain, images_of(plain), bits="w4a4", method="best")) == [False, False]


@pytest.mark.parametrize("kind", GATED)
@torch.no_grad()
def test_products_are_rotated_group_by_group_and_the_model_stays(kind):
    model, images = quantized(kind, "w4a4")
    for quantizer in model.quantizers().values():
        quantizer.enabled = False
    first = next(model.behind_gates())
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    first.input_quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    expected, weight = model(images), first.weight.clone()
    rotate_products_online(model.behind_gates(), seed=0, below=5)
    seen.clear()
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-5)
    x, x_rotated = (one.numpy() for one in seen)
    size = len(first.rotation)
    assert 8 <= size <= 64
    assert weight.shape[1] % size == 0
    for start in range(0, weight.shape[1], size):
        group = slice(start, start + size)
        np.testing.assert_allclose(x_rotated[..., group], x[..., group] @ first.rotation.numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(first.weight[:, group], weight[:, group] @ first.rotation, rtol=1e-4, atol=1e-6)
    assert _peak(x_rotated) < _peak(x)


def _peak(x: np.ndarray) -> float:
    """The largest magnitude, in units of the root of the mean square."""
    return float(np.abs(x).max() / np.sqrt(np.square(x).mean()))


def test_products_of_many_bits_or_of_channels_that_form_no_groups_are_left_alone():
    model, _ = quantized("packed", "w6a6", "best")
    assert [layer.rotation for layer in model.behind_gates()] == [None, None]
    odd = small("eva02_tiny_patch14_224", patch_size=16, ref_feat_shape=(2, 2), mlp_ratio=67.1 / 24)
    (one, *_) = repq_deploy.quantize(odd, images_of(odd), bits="w4a4", method="best").behind_gates()
    assert (one.weight.shape[1], one.rotation) == (67, None)


def test_a_rotated_product_is_not_balanced():
    steps = (step("rotate", what="stream", online_below=5), step("balance"), *find_method("best").steps[-3:])
    steps = tuple(one for one in steps if one.name != "weights")
    assert [one.name for one in steps] == ["rotate", "balance", "ranges", "fold"]
    architecture, options = GATED["packed"]
    by_balance: list[torch.Tensor] = []
    for chosen in (steps, tuple(one for one in steps if one.name != "balance")):
        model = small(architecture, **options)
        method = replace(find_method("best"), name="test", steps=(*chosen, step("weights")))
        quantized_one = repq_deploy.quantize(model, images_of(model), bits="w4a4", method=method)
        by_balance.append(next(quantized_one.behind_gates()).weight)
    torch.testing.assert_close(*by_balance, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["rope", "both", "packed", "two"])
def test_it_is_saved_and_read_and_exported(kind, tmp_path: Path):
    model, images = quantized(kind, "w4a4", "best")
    assert rotated(model) == [True, True]
    assert all((layer.rotation is not None) == (kind in GATED) for layer in model.behind_gates())
    counted = "q and k of 2 attentions" + (", the inputs of 2 fc2" if kind in GATED else "")
    assert model.online == counted
    expected = model(images)
    saved.save(model, tmp_path / "model.safetensors")
    architecture, options = MODELS[kind]
    again = saved.load(tmp_path / "model.safetensors", model=small(architecture, **options))
    torch.testing.assert_close(again(images), expected, rtol=1e-5, atol=1e-5)
    written = repq_deploy.export_onnx(model, tmp_path / "model.onnx", images)
    assert written.agreement.failing == ()
    assert read_source(written.path).metadata["repq.rotated_online"] == counted
