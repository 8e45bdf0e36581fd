import pytest
import timm
import torch
from torch import nn

from repq_deploy.models.families import find_sites
from repq_deploy.rewrites.balancing import balance_products, product_ranges

SMALL = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
#: A packed fc1 whose second half is not activated, and two linears of which the second is not.
GATED = {
    "packed": ("eva02_tiny_patch14_224", {"patch_size": 16, "ref_feat_shape": (2, 2)}),
    "two": ("vit_small_plus_patch16_dinov3", {}),
    "giant": ("vit_giant_patch14_dinov2", {"patch_size": 16}),
}


def gated(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    architecture, options = GATED[kind]
    model = timm.create_model(architecture, **{**SMALL, **options}).eval()
    return model, torch.randn(4, 3, 32, 32)


@pytest.mark.parametrize("kind", GATED)
@torch.no_grad()
def test_channels_become_alike_and_the_model_stays(kind):
    model, images = gated(kind)
    sites = find_sites(model)
    places = [site for site in sites.linears if site.up is not None]
    assert [site.role for site in places] == ["fc2", "fc2"]
    for site in places:  # a few channels with outliers
        up = model.get_submodule(site.up.linear)
        up.bias += 0.01 * torch.linspace(-1, 1, len(up.bias))
        for parameter in (up.weight, up.bias):
            parameter[site.up.start : site.up.start + 3] *= 50
    expected = model(images)
    before = product_ranges(model, sites, images, batch=3)
    balance_products(model, sites, before, power=1.0)
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-5)
    after = product_ranges(model, sites, images, batch=4)
    for name, ranges in before.items():
        assert ranges.max() > 5 * ranges.median()
        torch.testing.assert_close(after[name], ranges.mean().expand_as(ranges), rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_a_smaller_power_shares_the_differences_and_a_silent_channel_stays_finite():
    model, images = gated("packed")
    sites = find_sites(model)
    first = next(site for site in sites.linears if site.up is not None)
    up = model.get_submodule(first.up.linear)
    up.weight[first.up.start] = up.bias[first.up.start] = 0
    before = product_ranges(model, sites, images, batch=4)
    expected = model(images)
    balance_products(model, sites, before, power=0.5)
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-5)
    after = product_ranges(model, sites, images, batch=4)[first.name]
    wanted = before[first.name] / (before[first.name] / before[first.name].mean()).clamp_min(1e-3).sqrt()
    torch.testing.assert_close(after, wanted, rtol=1e-3, atol=1e-6)
    assert after[0] == 0
    assert model.get_submodule(first.name).weight.isfinite().all()


@torch.no_grad()
def test_an_mlp_that_gives_nothing_stays_as_it_is():
    model, images = gated("packed")
    sites = find_sites(model)
    model.blocks[0].mlp.fc1.weight.zero_()
    model.blocks[0].mlp.fc1.bias.zero_()
    before = {name: tensor.clone() for name, tensor in model.blocks[0].mlp.state_dict().items()}
    balance_products(model, sites, product_ranges(model, sites, images, batch=4), power=1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.blocks[0].mlp.state_dict().items())


def test_there_is_no_place_behind_a_plain_mlp_or_an_inner_norm():
    plain = timm.create_model("vit_tiny_patch16_224", **SMALL)
    normed = timm.create_model("eva02_base_patch14_224", **{**SMALL, "patch_size": 16, "ref_feat_shape": (2, 2)})
    assert isinstance(normed.blocks[0].mlp.norm, nn.LayerNorm)
    for model in (plain, normed):
        assert all(site.up is None for site in find_sites(model).linears)
