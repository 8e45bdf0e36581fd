import copy

import torch
from torch import nn

from repq_deploy.models.families import find_sites
from repq_deploy.quant.layers import add_to_bias
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means
from tests.conftest import float_model, images_for


@torch.no_grad()
def test_centering_keeps_the_model_and_takes_the_means_of_k_and_v_away(family):
    model, images = float_model(family), images_for(family, 5)
    sites, generator = find_sites(model), torch.Generator().manual_seed(0)
    for site in sites.attentions:
        qkv = model.get_submodule(site.name).qkv
        add_to_bias(qkv, torch.randn(len(qkv.weight), generator=generator))
    expected = model(images)
    means = qkv_means(model, sites, images, batch=2)
    center_keys_and_values(model, sites, means)
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-5)
    centered = qkv_means(model, sites, images, batch=5)
    for name, mean in means.items():
        q, k, v = centered[name].view(3, -1)
        torch.testing.assert_close(q, mean.view(3, -1)[0], rtol=1e-3, atol=1e-4)
        assert mean.view(3, -1)[1:].abs().max() > 0.5
        assert max(k.abs().max(), v.abs().max()) < 1e-4


@torch.no_grad()
def test_means_are_those_of_all_images():
    model, images = float_model("vit"), images_for("vit", 5)
    sites, seen = find_sites(model), []
    handle = model.blocks[1].attn.qkv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(images)
    handle.remove()
    found = qkv_means(model, sites, images, batch=2)["blocks.1.attn"]
    torch.testing.assert_close(found, seen[0].flatten(0, 1).double().mean(dim=0), rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_layers_without_a_bias_get_one_and_normed_keys_stay():
    model, images = float_model("vit"), images_for("vit", 2)
    plain, normed = model.blocks[0].attn, model.blocks[1].attn
    plain.qkv.bias = plain.proj.bias = None
    normed.k_norm = nn.LayerNorm(normed.head_dim)
    before = copy.deepcopy(normed.qkv.bias)
    expected = model(images)
    sites = find_sites(model)
    center_keys_and_values(model, sites, qkv_means(model, sites, images, batch=2))
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-5)
    third = len(before) // 3
    assert plain.proj.bias is not None
    assert torch.equal(normed.qkv.bias[: 2 * third], before[: 2 * third])
    assert not torch.equal(normed.qkv.bias[2 * third :], before[2 * third :])
