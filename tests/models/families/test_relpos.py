"""timm's ViT with relative positions: rewritten it computes what it did, with norms before the branches or behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer_relpos import checkpoint_filter_fn

from repq_deploy.models.checkpoints import load_into, own_image_size
from repq_deploy.models.families import find_family
from tests.models.families.small import check_features, check_rewrites, small

PRE, POST = "vit_relpos_small_patch16_224", "vit_relpos_small_patch16_rpn_224"


@pytest.mark.parametrize(
    ("timm_id", "options"),
    [
        (PRE, {}),
        (PRE, {"shared_rel_pos": True}),
        (PRE, {"rel_pos_type": "bias"}),
        (PRE, {"rel_pos_type": "bias", "shared_rel_pos": True, "qkv_bias": True}),
        (PRE, {"rel_pos_type": "mlp-swin", "qk_norm": True}),
        ("vit_relpos_base_patch16_cls_224", {}),
        ("vit_relpos_base_patch16_clsgap_224", {}),
        (POST, {}),
    ],
)
def test_rewrites_keep_it(timm_id, options):
    sites = check_rewrites(small(timm_id, **options), rotates=timm_id != POST)
    normed = "qk_norm" in options
    assert {site.between_qk for site in sites.attentions} == {"norm" if normed else "nothing"}
    read = {site.norm for site in sites.linears if site.role in ("qkv", "fc1")}
    assert read == ({None} if timm_id == POST else {f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)})


@pytest.mark.parametrize("kind", ["mlp", "bias"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_bias_is_read_and_counted(kind, shared):
    model = small(PRE, rel_pos_type=kind, shared_rel_pos=shared, class_token=True)
    family = find_family(model)
    source = model.shared_rel_pos if shared else model.blocks[1].attn.rel_pos
    bias = family.attention(model, "blocks.1.attn").position_bias
    assert torch.equal(bias, source.get_bias())
    assert bias.shape == (1, 2, 25, 25)
    parameters = sum(parameter.numel() for parameter in source.parameters())
    table = 2 * (7 * 11 + 1) - parameters if kind == "mlp" else 0
    assert family.derived_numbers(model) == 25**2 + (1 if shared else 2) * table


def test_a_checkpoint_of_another_size_is_resized_as_timm_does():
    saved, model = (small(PRE, rel_pos_type="bias", img_size=size) for size in (40, (32, 48)))
    expected = checkpoint_filter_fn(saved.state_dict(), model)
    assert own_image_size(model, saved.state_dict()) == 40
    assert load_into(model, saved.state_dict(), Path("x.pt"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_network_of_distances_fits_every_size():
    saved, model = (small(PRE, img_size=size) for size in (40, (32, 48)))
    assert own_image_size(model, saved.state_dict()) is None
    assert load_into(model, saved.state_dict(), Path("x.pt")) == ()


def test_its_features_are_timms():
    check_features(small(PRE, shared_rel_pos=True, class_token=True))
