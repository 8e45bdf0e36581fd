import pytest
import torch
from torch import nn

from repq_deploy.models.families import find_sites
from repq_deploy.rewrites.rotations import fold_layer_scales, random_rotation, rotate_heads, rotate_residual_stream
from tests.conftest import SPECS, float_model


@pytest.mark.parametrize("keeps_ones", [False, True])
def test_a_rotation_is_orthogonal(keeps_ones):
    rotation = random_rotation(24, torch.Generator().manual_seed(0), keeps_ones=keeps_ones)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(24, dtype=torch.float64))
    ones = torch.ones(24, dtype=torch.float64)
    assert torch.allclose(rotation @ ones, ones) == keeps_ones
    assert rotation.abs().max() < 0.95


@pytest.mark.parametrize("family", sorted(SPECS))
def test_rotations_keep_the_model(family):
    model = float_model(family)
    images = torch.randn(3, 3, *[model.patch_embed.img_size[0]] * 2)
    expected = model(images)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    rotated = rotate_residual_stream(model, find_sites(model), seed=0)
    assert rotated == (family != "swin")
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=2e-5)
    rotate_heads(model, find_sites(model), seed=0)
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=2e-5)
    qkv = next(name for name in before if name.endswith("attn.qkv.weight"))
    assert not torch.allclose(before[qkv], model.get_parameter(qkv), atol=1e-2)


def test_a_rotation_spreads_an_outlier_channel():
    model = float_model("vit")
    with torch.no_grad():
        model.patch_embed.proj.weight[7] *= 100
    tokens = model.patch_embed(torch.randn(2, 3, 32, 32))
    rotate_residual_stream(model, find_sites(model), seed=0)
    spread = model.patch_embed(torch.randn(2, 3, 32, 32))
    assert spread.abs().amax() / spread.std() < 0.5 * tokens.abs().amax() / tokens.std()


def test_layer_scales_become_identities():
    model = float_model("dinov2")
    images = torch.randn(2, 3, 28, 28)
    expected = model(images)
    fold_layer_scales(model, find_sites(model))
    assert isinstance(model.blocks[0].ls1, nn.Identity)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
