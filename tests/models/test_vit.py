"""Every variant of timm's VisionTransformer: what is read as which site, and that what the facts allow is exact."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DiffAttention
from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelThingsBlock

from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_family, find_sites, stages
from repq_deploy.models.sites import forward_through
from repq_deploy.models.zoo import ModelSpec, build_architecture
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means
from repq_deploy.rewrites.rotations import rotate_heads, rotate_residual_stream
from tests.models.vit_variants import VARIANTS, images_for, variant

#: Where the stream begins and ends in something that cannot absorb a rotation.
ENTRIES = {"clip": "norm_pre", "clip without head": "norm_pre", "aimv2": "patch_embed.norm"}
ENTRIES["aimv2 and head"] = "patch_embed.norm"
EXITS = dict.fromkeys(("clip without head", "aimv2", "packed swiglu", "mean without head", "largest"), "norm")
EXITS |= {"no final norm": "fc_norm", "norm behind the pool": "fc_norm"}

#: Differential attention multiplies v by a difference of two softmaxes.
REFUSED = {"vit_dlittle_patch16_reg1_gap_256", "vit_dwee_patch16_reg1_gap_256", "vit_dpwee_patch16_reg1_gap_256"}


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_rewrites_are_exact(name):
    model = variant(name)
    images = images_for(model)
    expected = model(images)
    sites = find_sites(model)
    torch.testing.assert_close(forward_through(stages(model), images), expected, rtol=1e-5, atol=1e-5)
    center_keys_and_values(model, sites, qkv_means(model, sites, images, batch=4))
    rotate_heads(model, sites, seed=0)
    before = model.blocks[1].attn.qkv.weight.clone()
    rotated = rotate_residual_stream(model, sites, seed=0)
    assert rotated == (name != "norm behind the branch")
    assert torch.allclose(before, model.blocks[1].attn.qkv.weight, atol=1e-2) != rotated
    assert (model(images) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_linear_is_a_site_and_of_one_stage(name):
    model = variant(name)
    sites = find_sites(model)  # folds a pool's query, which is a constant
    linears = {n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    embedding, *others = [site.name for site in sites.linears]
    assert set(others) == linears
    assert embedding == "patch_embed.proj"
    for site in sites.linears:
        assert sum(stage.holds(site.name) for stage in stages(model)) == 1


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - {"norm behind the branch"}))
def test_the_ends_of_the_stream(name):
    stream = find_sites(variant(name)).stream
    assert stream is not None
    assert stream.entry == ENTRIES.get(name)
    assert stream.exits == ((EXITS[name],) if name in EXITS else ())
    begins_in_a_norm = name in ENTRIES
    assert ("patch_embed.proj" in stream.writers) != begins_in_a_norm
    assert ("pos_embed" in stream.embeddings) == (stream.entry != "norm_pre")


def test_a_pool_reads_the_last_norm():
    sites = find_sites(variant("pool and head"))
    pool = {site.name: (site.norm, site.after_gelu) for site in sites.linears if site.role == "pool"}
    assert pool == {
        "attn_pool.kv": ("norm", False),
        "attn_pool.proj": (None, False),
        "attn_pool.mlp.fc1": ("attn_pool.norm", False),
        "attn_pool.mlp.fc2": (None, True),
    }
    assert sites.stream.readers[-1] == ("norm", ("attn_pool.kv",))


def test_rms_norms_are_not_folded_and_read_by_both_halves_of_a_gated_mlp():
    sites = find_sites(variant("aimv2"))
    assert {site.norm for site in sites.linears} == {None}
    assert sites.stream.readers[1] == ("blocks.0.norm2", ("blocks.0.mlp.fc1_g", "blocks.0.mlp.fc1_x"))


def test_attention_and_mlp_side_by_side_read_one_norm():
    model = variant("parallel")
    sites = find_sites(model)
    assert [site.name for site in sites.readers("blocks.0.norm")] == ["blocks.0.attn.qkv", "blocks.0.mlp.fc1"]
    again = find_sites(model)  # a model that was prepared stays as it is
    assert again == sites


def test_only_a_gelu_is_one():
    assert not any(site.after_gelu for site in find_sites(variant("clip without head")).linears)  # QuickGELU
    assert any(site.after_gelu for site in find_sites(variant("clip")).linears)


def test_a_gate_multiplies_each_channel():
    sites = find_sites(variant("gated"))
    assert [site.norm for site in sites.linears if site.role == "gate"] == ["blocks.0.norm1", "blocks.1.norm1"]
    assert {site.between_v for site in sites.attentions} == {"gate"}


@torch.no_grad()
def test_a_standardized_weight_is_stored():
    model = variant("hybrid")
    images = images_for(model)
    expected = model(images)
    find_sites(model)
    kinds = {type(module).__name__ for module in model.patch_embed.modules()}
    assert "StdConv2dSame" not in kinds
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


def test_a_hybrid_takes_multiples_of_its_whole_stride():
    def built(timm_id: str, height: int) -> torch.nn.Module:
        arguments = {"depth": 1, "img_size": (height, 96)}
        with torch.device("meta"):
            return build_architecture(ModelSpec("tiny", timm_id, arguments, None, "random"))

    for timm_id, patch in (("vit_tiny_r_s16_p8_224", 32), ("vit_small_r26_s32_224", 32), ("vit_base_mci_224", 16)):
        model = built(timm_id, 64)
        assert find_family(model).image_sides(model) == ((64, 96), (patch, patch))
    with pytest.raises(BadInput, match="--img-size 230 is not a multiple of its patch size 32"):
        built("vit_small_r26_s32_224", 230)
    with pytest.raises(BadInput, match="sides of images have to be multiples"):
        built("vit_tiny_r_s16_p8_224", 66)


def test_the_last_convolution_of_a_stem_embeds_patches():
    with torch.device("meta"):
        model = timm.create_model("vit_base_mci_224", depth=1)
    sites = find_sites(model)
    assert sites.linears[0].name == sites.stream.writers[0] == "patch_embed.backbone.2.conv"


def test_a_checkpoint_of_another_image_size_resizes_a_hybrids_positions():
    trained = timm.create_model("vit_tiny_r_s16_p8_224", embed_dim=32, depth=1, num_heads=2, img_size=96)
    model = variant("hybrid")
    family = find_family(model)
    tensors = trained.state_dict()
    assert family.own_image_size(model, tensors) == 96
    assert family.resized(model, tensors)["pos_embed"].shape == model.pos_embed.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attn_layer": DiffAttention}, "found DiffAttention, expected timm's plain Attention, of one softmax"),
        ({"block_fn": DiffParallelScalingBlock}, "found a DiffParallelScalingBlock, expected timm's Block, ResPostBl"),
        ({"block_fn": ParallelThingsBlock}, "found a ParallelThingsBlock"),
        ({"global_pool": "prr"}, "found AttentionPoolPrr, expected timm's AttentionPoolLatent"),
    ],
)
def test_what_is_refused(arguments, message):
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", depth=1, **arguments)
    with pytest.raises(BadInput, match=message):
        find_sites(model)


@pytest.mark.slow
def test_all_architectures_with_weights_but_three_are_read():
    with_weights = {name.partition(".")[0] for name in timm.list_pretrained()}
    names = [name for module in ("", "_hybrid") for name in timm.list_models(module=f"vision_transformer{module}")]
    refused = set()
    with torch.device("meta"):
        for name in (name for name in names if name in with_weights):
            try:
                find_sites(timm.create_model(name, depth=1))
            except BadInput:
                refused.add(name)
    assert refused == REFUSED
    assert len(with_weights.intersection(names)) >= 154
