"""Families: what is read as which site, with which facts."""

import pytest
import timm
import torch
from timm.layers import GluMlp

from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_sites, stages
from repq_deploy.models.sites import AttentionSite
from tests.conftest import SPECS, float_model


def test_vit_sites():
    sites = find_sites(float_model("vit"))
    assert [site.name for site in sites.linears] == [
        "patch_embed.proj",
        *(f"blocks.{i}.{name}" for i in range(2) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
        "head",
    ]
    assert {site.role: site.norm for site in sites.linears if site.name.startswith("blocks.1")} == {
        "qkv": "blocks.1.norm1",
        "proj": None,
        "fc1": "blocks.1.norm2",
        "fc2": None,
    }


def test_swin_sites_include_the_patch_merge():
    sites = find_sites(float_model("swin"))
    (merge,) = [site for site in sites.linears if site.role == "reduction"]
    assert (merge.name, merge.norm) == ("layers.1.downsample.reduction", "layers.1.downsample.norm")
    assert len(sites.attentions) == 4
    assert sites.linears[-1].name == "head.fc"


def test_distilled_deit_has_two_heads():
    model = timm.create_model("deit_tiny_distilled_patch16_224", embed_dim=24, depth=1, num_heads=2)
    assert [site.name for site in find_sites(model).linears if site.role == "head"] == ["head", "head_dist"]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet18", {}, "model family ResNet is not supported"),
        ("vit_small_patch16_36x1_224", {"depth": 1}, None),
        ("swin_tiny_patch4_window7_224", {"img_size": 256, "depths": (1, 1, 1, 1)}, None),
        ("vitamin_small_224", {}, "found"),
    ],
)
def test_what_the_reading_does_not_fit_is_refused(name, kwargs, message):
    model = timm.create_model(name, **kwargs)
    if message is None:
        assert find_sites(model).linears
        return
    with pytest.raises(BadInput, match=message):
        find_sites(model)


def test_a_model_without_a_final_norm_ends_its_stream_with_a_rotation():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, final_norm=False)
    assert find_sites(model).stream.exits == ("fc_norm",)


@pytest.mark.parametrize(
    ("arguments", "between_qk", "between_v"),
    [
        ({}, "nothing", "nothing"),
        ({"qk_norm": True}, "norm", "nothing"),
        ({"scale_attn_norm": True}, "nothing", "norm"),
    ],
)
def test_a_norm_in_attention_is_a_fact_of_its_site(arguments, between_qk, between_v):
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2, **arguments)
    (site,) = find_sites(model).attentions
    assert (site.heads, site.between_qk, site.between_v) == (2, between_qk, between_v)
    qk, v = between_qk == "nothing", between_v == "nothing"
    assert (site.k_shift_is_free, site.qk_rotation_is_free, site.qk_head_scales_are_free) == (qk, qk, qk)
    assert (site.v_shift_is_free, site.v_rotation_is_free, site.v_head_scales_are_free) == (v, v, v)


def test_a_rotation_by_position_forbids_shifts_and_rotations_but_no_scales():
    site = AttentionSite("attn", 2, between_qk="rope")
    assert (site.k_shift_is_free, site.qk_rotation_is_free, site.qk_head_scales_are_free) == (False, False, True)


def test_a_gated_mlp_does_not_end_in_a_gelu():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, mlp_layer=GluMlp)
    assert not any(site.after_gelu for site in find_sites(model).linears)


@pytest.mark.parametrize("family", sorted(SPECS))
def test_stages_are_the_forward_pass_and_hold_every_site(family):
    model = float_model(family)
    images = torch.randn(2, 3, *[model.patch_embed.img_size[0]] * 2)
    expected = model(images)
    x = images
    for stage in stages(model):
        x = stage.forward(x)
    assert torch.equal(x, expected)
    for site in find_sites(model).linears:
        assert sum(stage.holds(site.name) for stage in stages(model)) == 1
