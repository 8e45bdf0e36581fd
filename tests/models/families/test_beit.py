"""timm's Beit: prepared and rewritten it computes what it did; tables of biases are read, counted and resized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.beit import checkpoint_filter_fn

from repq_deploy.errors import BadInput
from repq_deploy.models.checkpoints import load_into, own_image_size
from repq_deploy.models.families import find_family, find_sites
from tests.models.families.small import check_features, check_rewrites, images_of, small

BEIT = "beit_base_patch16_224"
TOKENS = 4 * 6 + 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": False},
        {"use_shared_rel_pos_bias": True},
        {"use_rel_pos_bias": False, "use_abs_pos_emb": True, "global_pool": "token"},
        {"qkv_bias": False, "init_values": None},
        {"scale_mlp": True},
        {"swiglu_mlp": True, "scale_mlp": True},
    ],
    ids=["table", "shared", "both", "absolute", "bare", "norm_in_mlp", "swiglu"],
)
def test_rewrites_keep_it(options):
    model = small(BEIT, **options)
    sites = check_rewrites(model, rotates=True)
    assert len(sites.attentions) == 2
    assert all(site.qk_rotation_is_free and site.v_rotation_is_free for site in sites.attentions)
    norms = {site.name.removeprefix("blocks.1."): site.norm for site in sites.linears if "blocks.1" in site.name}
    assert norms["attn.qkv"] == "blocks.1.norm1"
    assert norms["mlp.fc2"] == ("blocks.1.mlp.norm" if "scale_mlp" in options else None)
    halves = ("mlp.fc1_g", "mlp.fc1_x") if "swiglu_mlp" in options else ("mlp.fc1",)
    assert all(norms[name] == "blocks.1.norm2" for name in halves)


def test_biases_beside_qkv_and_layer_scales_are_parameters_of_the_linears():
    model = small(BEIT)
    q, v, gamma = (
        one.clone() for one in (model.blocks[0].attn.q_bias, model.blocks[0].attn.v_bias, model.blocks[0].gamma_1)
    )
    weight = model.blocks[0].attn.proj.weight.clone()
    find_sites(model)
    block = model.blocks[0]
    assert torch.equal(block.attn.qkv.bias, torch.cat([q, torch.zeros_like(q), v]))
    torch.testing.assert_close(block.attn.proj.weight, weight * gamma[:, None])
    assert block.gamma_1 is None


def test_the_bias_is_read_and_counted():
    model = small(BEIT, use_shared_rel_pos_bias=True)
    family = find_family(model)
    bias = family.attention(model, "blocks.1.attn").position_bias
    assert bias.shape == (1, 2, TOKENS, TOKENS)
    # A token two rows below and one column left of another: row 3 + 2, column 5 - 1 of the table of 7 x 11.
    entry = (3 + 2) * 11 + 5 - 1
    own, shared = (one.relative_position_bias_table[entry] for one in (model.blocks[1].attn, model.rel_pos_bias))
    torch.testing.assert_close(bias[0, :, 1 + 2 * 6, 1 + 1], own + shared)
    assert family.derived_numbers(model) == TOKENS**2
    assert family.derived_numbers(small(BEIT, use_rel_pos_bias=False)) == 0


@pytest.mark.parametrize("options", [{}, {"use_abs_pos_emb": True, "use_shared_rel_pos_bias": True}])
def test_a_checkpoint_of_another_size_is_resized_as_timm_does(options):
    saved, model = small(BEIT, img_size=40, **options), small(BEIT, **options)
    tensors = saved.state_dict()
    assert own_image_size(model, tensors) == 40
    expected = checkpoint_filter_fn(dict(tensors), model)
    (note,) = load_into(model, tensors, Path("x.pt"))
    assert note == "position embeddings resized from 40 to 32x48 pixels"
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert own_image_size(saved, tensors) is None
    assert torch.isfinite(model(images_of(model))).all()


def test_a_table_of_no_square_grid_is_refused():
    model = small(BEIT, img_size=40)
    tensors = small(BEIT).state_dict()
    assert own_image_size(model, tensors) is None
    with pytest.raises(BadInput, match=r"relative_position_bias_table is \[80, 2\], the model has \[84, 2\]"):
        load_into(model, tensors, Path("x.pt"))


def test_its_features_are_timms():
    check_features(small(BEIT, use_shared_rel_pos_bias=True))
