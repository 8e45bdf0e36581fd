"""q and k are rotated behind what turns or norms them: outliers go, and the model stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import repq_deploy
from repq_deploy.quant import saved
from repq_deploy.quant.layers import RotatedOutput
from repq_deploy.quant.model import QuantizedModel
from repq_deploy.rewrites.online import rotate_online
from tests.models.families.small import images_of, small

#: RoPE of one table, of a table for each head, a norm alone, and a norm before RoPE.
TURNED = {
    "rope": ("eva02_base_patch14_448", {}),
    "mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "norm": ("vit_relpos_small_patch16_rpn_224", {"qk_norm": True}),
    "both": ("vit_small_patch16_dinov3_qkvb", {"qk_norm": True}),
}


def quantized(kind: str, bits: str, method: str = "minmax") -> tuple[QuantizedModel, torch.Tensor]:
    architecture, options = TURNED[kind]
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
    rotate_online(model.attentions(), seed=0, below=5)
    assert rotated(model) == [True, True]
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-4)
    q, k, q_rotated, k_rotated = seen
    for before, after in ((q, q_rotated), (k, k_rotated)):
        torch.testing.assert_close(after.norm(dim=-2), before.norm(dim=-2), rtol=1e-3, atol=1e-4)
    if kind == "rope":  # a norm takes some of an outlier away itself
        assert q_rotated.abs().max() < 0.9 * q.abs().max()


def test_many_bits_and_what_weights_absorb_are_left_alone():
    model, _ = quantized("rope", "w6a6", "best")
    assert rotated(model) == [False, False]
    rotate_online(model.attentions(), seed=0, below=6)
    assert rotated(model) == [False, False]
    rotate_online(model.attentions(), seed=0, below=7)
    assert rotated(model) == [True, True]
    plain = small("vit_tiny_patch16_224")
    assert rotated(repq_deploy.quantize(plain, images_of(plain), bits="w4a4", method="best")) == [False, False]


@pytest.mark.parametrize("kind", ["rope", "both"])
def test_it_is_saved_and_read_and_exported(kind, tmp_path: Path):
    model, images = quantized(kind, "w4a4", "best")
    assert rotated(model) == [True, True]
    expected = model(images)
    saved.save(model, tmp_path / "model.safetensors")
    architecture, options = TURNED[kind]
    again = saved.load(tmp_path / "model.safetensors", model=small(architecture, **options))
    torch.testing.assert_close(again(images), expected, rtol=1e-5, atol=1e-5)
    written = repq_deploy.export_onnx(model, tmp_path / "model.onnx", images)
    assert written.agreement.failing == ()
