"""Features: those of timm, with the blocks behind them left out, and the stream's rotation undone where they leave."""

from __future__ import annotations

import json

import pytest
import timm
import torch

from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_family, find_sites, stages, task_of
from repq_deploy.models.loading import load_model
from repq_deploy.models.taps import Features, exits_of, tapped
from repq_deploy.models.zoo import ModelSpec
from repq_deploy.rewrites.rotations import rotate_residual_stream
from tests.conftest import float_model, images_for
from tests.tapped import tapped_model


def features_of_timm(family: str, features: Features) -> list[torch.Tensor]:
    model, layout = float_model(family), "NCHW" if features.layout == "maps" else "NLC"
    found = model.forward_intermediates(
        images_for(family),
        indices=list(features.blocks),
        norm=features.norm,
        intermediates_only=True,
        output_fmt=layout,
        return_prefix_tokens=layout == "NLC",
    )
    return [torch.cat([one[1], one[0]], dim=1) if isinstance(one, tuple) else one for one in found]


@pytest.mark.parametrize("layout", ["tokens", "maps"])
@pytest.mark.parametrize(
    ("family", "blocks", "norm"),
    [
        ("vit", (0, 1), False),
        ("vit", (0,), True),
        ("dinov2", (1,), False),
        ("distilled", (0,), True),
        ("average", (0,), False),
    ],
)
def test_features_are_those_of_timm_before_and_after_the_rotation(family, blocks, norm, layout):
    features = Features(blocks, layout, norm)
    expected, images = features_of_timm(family, features), images_for(family)
    model = tapped_model(family, features).network
    for found, timms in zip(model(images), expected, strict=True):
        assert torch.equal(found, timms)
    before = model.blocks[0].mlp.fc2.weight.clone()
    assert rotate_residual_stream(model, find_sites(model), seed=0)
    assert not torch.allclose(before, model.blocks[0].mlp.fc2.weight, atol=1e-3)
    for found, timms in zip(model(images), expected, strict=True):
        assert (found - timms).norm() / timms.norm() < 1e-5


@pytest.mark.parametrize("index", [0, 1])
def test_features_of_swin_are_its_stages(index):
    expected = float_model("swin").forward_intermediates(images_for("swin"), indices=[index], intermediates_only=True)
    (found,) = tapped_model("swin", Features((index,), "maps")).network(images_for("swin"))
    assert torch.equal(found, expected[0])
    (tokens,) = tapped_model("swin", Features((index,))).network(images_for("swin"))
    assert torch.equal(tokens.transpose(1, 2).reshape(found.shape), found)


def test_what_stands_behind_the_last_tap_is_gone_and_sites_keep_their_names():
    model, whole = tapped_model("vit", Features((0,))).network, float_model("vit")
    sites = [site.name for site in find_sites(model).linears]
    assert sites == [site.name for site in find_sites(whole).linears if not site.name.startswith(("blocks.1", "head"))]
    assert find_sites(model).stream.exits == exits_of(model) == ("taps.0",)
    assert set(model.state_dict()) < set(whole.state_dict())
    assert [stage.name for stage in stages(model)] == ["patch_embed", "blocks.0", "features"]
    assert task_of(model).name == "features"


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("vit", Features((0, 2)), "features 2: the model has the blocks 0 to 1"),
        ("average", Features((0,), norm=True), "has no final norm that fits"),
        ("swin", Features((0,), norm=True), "has no final norm that fits"),
    ],
)
def test_features_that_a_model_does_not_have_are_refused(name, features, message):
    with pytest.raises(BadInput, match=message):
        tapped_model(name, features)


def test_a_family_that_cannot_lose_its_head_says_so():
    model = tapped_model("vit", Features((1,))).network
    with pytest.raises(BadInput, match="features cannot be taken of timm's VisionTransformer"):
        tapped(model, find_family(model), Features((0,)))


@pytest.mark.parametrize("blocks", [(), (1, 0), (1, 1), (-1,), (256,)])
def test_indexes_are_rising_and_bounded(blocks):
    with pytest.raises(ValueError, match="expected indexes"):
        Features(blocks)


def test_a_record_with_features_builds_the_model_again():
    model = load_model("demo", features=(1, 3))
    assert ModelSpec.from_dict(json.loads(json.dumps(model.spec.to_dict()))) == model.spec
    assert "features" not in load_model("demo").spec.to_dict()
    images = torch.randn(2, 3, 28, 28)
    whole = load_model("demo").network.forward_intermediates(images, indices=[1, 3], intermediates_only=True)
    maps = load_model("demo", features=Features((1, 3), "maps")).network(images)
    assert all(torch.equal(one, other) for one, other in zip(maps, whole, strict=True))
    with pytest.raises(BadInput, match="features 6: the model has the blocks 0 to 5"):
        load_model("demo", features=(6,))


def test_a_model_that_timm_builds_with_features_gives_the_same():
    torch.manual_seed(0)
    getter = timm.create_model("vit_tiny_patch16_224", features_only=True, out_indices=(0, 2), img_size=32).eval()
    images = torch.randn(1, 3, 32, 32)
    expected = getter(images)
    model = tapped(getter.model, find_family(getter.model), Features((0, 2), "maps"))
    assert all(torch.equal(one, other) for one, other in zip(model(images), expected, strict=True))


PLAIN = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3}
STAGES = {"embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4)}


@pytest.mark.parametrize(
    ("name", "arguments", "rotated"),
    [
        ("vit_small_patch16_dinov3", PLAIN, True),
        ("vit_small_patch16_rope_mixed_224", PLAIN, True),  # its tables are learned, one for each block
        ("vit_pe_core_tiny_patch16_384", PLAIN, True),  # a norm before the blocks, and attention pooling behind
        ("swinv2_tiny_window8_256", {**STAGES, "img_size": 64}, False),
        ("swinv2_cr_tiny_224", {**STAGES, "img_size": 56}, False),
    ],
)
@torch.no_grad()
def test_maps_of_other_families_are_those_of_timm(name, arguments, rotated):
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    images = torch.randn(2, 3, *[arguments["img_size"]] * 2)
    expected = model.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
    model = tapped(model, find_family(model), Features((0, 1), "maps"))
    for _ in range(2):
        for one, other in zip(model(images), expected, strict=True):
            assert (one - other).norm() / other.norm() < 1e-5
        assert rotate_residual_stream(model, find_sites(model), seed=0) == rotated
