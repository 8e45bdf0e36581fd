"""timm's NaFlexVit at one size: a convolution of patches, positions resampled once, and all else as it was."""

from __future__ import annotations

import pytest
import torch
from timm.models.naflexvit import NaFlexVit
from torch import nn

from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_family, find_sites
from tests.models.families.small import check_features, check_rewrites, images_of, small

GAP, MAP, RADIO = "naflexvit_base_patch16_gap", "naflexvit_base_patch16_siglip", "naflexvit_base_patch16_radio_v3"


@pytest.mark.parametrize(
    ("timm_id", "options"),
    [
        (GAP, {}),
        (GAP, {"patchify_channels_last": False, "patch_size": (8, 16)}),
        (GAP, {"embed_proj_type": "conv", "pos_embed": "none"}),
        (GAP, {"pre_norm": True}),
        (GAP, {"embed_norm_layer": "layernorm", "qk_norm": True}),
        (GAP, {"class_token": True, "scale_attn_inner_norm": True, "scale_mlp_norm": True}),
        (GAP, {"global_pool": "max"}),
        ("naflexvit_base_patch16_par_gap", {}),
        ("naflexvit_base_patch16_parfac_gap", {}),
        (MAP, {"num_classes": 0}),
        ("naflexvit_so150m2_patch16_reg1_map", {}),
        (RADIO, {"num_classes": 0}),
    ],
)
def test_rewrites_keep_it(timm_id, options):
    model = small(timm_id, **options)
    sites = check_rewrites(model, rotates=True)
    pool = [(site.name, site.norm) for site in sites.linears if site.role == "pool"]
    pooled = [
        ("attn_pool.kv", "norm"),
        ("attn_pool.proj", None),
        ("attn_pool.mlp.fc1", "attn_pool.norm"),
        ("attn_pool.mlp.fc2", None),
    ]
    assert pool == (pooled if model.global_pool == "map" else [])


def test_prepared_it_takes_images_of_its_size_only_and_resamples_nothing():
    model = small("naflexvit_base_patch16_parfac_gap")
    family = find_family(model)
    assert family.image_sides(model) == ((32, 48), (8, 8))
    find_sites(model)
    assert family.image_sides(model) == ((32, 48), (8, 8))
    assert isinstance(model.embeds.proj, nn.Conv2d)
    assert model.embeds.pos_embed.shape == (1, 24, 24)
    assert model(images_of(model)).shape == (4, 5)
    with pytest.raises(ValueError, match=r"images of \(48, 32\) pixels, expected \(32, 48\)"):
        model(torch.zeros(1, 3, 48, 32))


def test_one_that_does_not_say_its_size_is_refused():
    with pytest.raises(BadInput, match="unknown image size"):
        find_sites(NaFlexVit(embed_dim=24, depth=1, num_heads=2, patch_size=8))


def test_blocks_with_rotations_are_refused():
    with pytest.raises(BadInput, match="found EvaBlock, expected timm's plain pre-norm Block"):
        find_sites(small(GAP, rope_type="axial"))


def test_its_features_are_timms():
    for timm_id in (MAP, RADIO):
        check_features(small(timm_id, num_classes=0))
