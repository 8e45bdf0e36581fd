"""A module of somebody's own around timm's blocks: quantized as a timm model of the same weights, or refused."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import repq_deploy
from repq_deploy.errors import BadInput
from repq_deploy.export.canonical import canonical_onnx
from repq_deploy.export.prove_export import compare_export
from repq_deploy.models.families import find_sites, known_family, stages
from repq_deploy.models.sites import forward_through
from repq_deploy.quant import saved
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means
from repq_deploy.rewrites.rotations import fold_layer_scales, rotate_heads, rotate_residual_stream
from repq_deploy.tasks import CLASSIFICATION, FEATURES

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Encoder(nn.Module):
    """As one writes it: patches, blocks, and a mean of the tokens with a linear behind it."""

    def __init__(self, classes: int = 5, container: type = nn.ModuleList) -> None:
        super().__init__()
        self.to_tokens = PatchEmbed(img_size=32, patch_size=8, embed_dim=32)
        self.positions = nn.Parameter(torch.randn(1, 16, 32) * 0.1)
        blocks = [Block(32, 2, qkv_bias=True, init_values=0.5) for _ in range(2)]
        self.inner = nn.ModuleDict({"layers": container(blocks) if container is nn.ModuleList else container(*blocks)})
        self.norm, self.classify = nn.LayerNorm(32), nn.Linear(32, classes) if classes else nn.Identity()

    def tokens(self, images: Tensor) -> Tensor:
        x = self.to_tokens(images) + self.positions
        for block in self.inner["layers"]:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.tokens(images).mean(dim=1))


class InOneCall(Encoder):
    def tokens(self, images: Tensor) -> Tensor:
        return self.norm(self.inner["layers"](self.to_tokens(images) + self.positions))


def make(kind: type = Encoder, **options: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(**options).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize(
    ("kind", "options"), [(Encoder, {}), (InOneCall, {"container": nn.Sequential}), (Encoder, {"classes": 0})]
)
@torch.no_grad()
def test_stages_compute_what_it_does(kind, options):
    model = make(kind, **options)
    sites = find_sites(model)
    torch.testing.assert_close(forward_through(stages(model), IMAGES), model(IMAGES))
    assert stages(model)[-1].task is (FEATURES if options.get("classes") == 0 else CLASSIFICATION)
    names = [site.name for site in sites.linears]
    assert names[0] == "to_tokens.proj" and "inner.layers.1.mlp.fc2" in names
    assert (names[-1] == "classify") == (options.get("classes") != 0)
    assert sites.stream is None


@torch.no_grad()
def test_rewrites_are_exact():
    model = make()
    expected, sites = model(IMAGES), find_sites(model)
    fold_layer_scales(model, sites)
    center_keys_and_values(model, sites, qkv_means(model, sites, IMAGES, batch=4))
    rotate_heads(model, sites, seed=0)
    assert not rotate_residual_stream(model, sites, seed=0)
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["repq", "best"])
def test_export_has_the_same_codes(method):
    quantized = repq_deploy.quantize(make(), IMAGES, bits="w6a6", method=method)
    assert len(quantized.sites.linears) == 10
    assert compare_export(quantized, canonical_onnx(quantized, (3, 32, 32)), IMAGES).failing == ()


def test_same_codes_as_the_timm_model():
    own = make()
    ours = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5,
        class_token=False, global_pool="avg", fc_norm=False, init_values=0.5,
    ).eval()  # fmt: skip
    ours.norm.eps = own.norm.eps  # timm's norms have another than PyTorch's
    names = {"to_tokens": "patch_embed", "positions": "pos_embed", "inner.layers": "blocks", "classify": "head"}
    tensors = {}
    for name, tensor in own.state_dict().items():
        prefix = next((one for one in names if name.startswith(one)), "")
        tensors[names.get(prefix, "") + name.removeprefix(prefix)] = tensor
    ours.load_state_dict(tensors)
    with torch.no_grad():
        torch.testing.assert_close(own(IMAGES), ours(IMAGES))
        of_both = [
            repq_deploy.quantize(model, IMAGES, bits="w6a6", method="repq").model(IMAGES) for model in (own, ours)
        ]
        torch.testing.assert_close(*of_both)


def test_it_is_saved_and_read_with_the_module(tmp_path):
    quantized = repq_deploy.quantize(make(), IMAGES, bits="w8a8", method="minmax")
    saved.save(quantized, tmp_path / "own.safetensors")
    again = saved.load(tmp_path / "own.safetensors", model=make())
    with torch.no_grad():
        assert torch.equal(again.model(IMAGES), quantized.model(IMAGES))


class Skips(Encoder):
    """The last layer sees the images again."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + images.mean(dim=(1, 2, 3), keepdim=False)[:, None]


class Between(Encoder):
    def tokens(self, images: Tensor) -> Tensor:
        x = self.to_tokens(images) + self.positions
        for block in self.inner["layers"]:
            x = block(x) * 1.5
        return self.norm(x)


class Backwards(Encoder):
    def tokens(self, images: Tensor) -> Tensor:
        x = self.to_tokens(images) + self.positions
        for block in reversed(self.inner["layers"]):
            x = block(x)
        return self.norm(x)


class Masked(Encoder):
    def tokens(self, images: Tensor) -> Tensor:
        x = self.to_tokens(images) + self.positions
        for block in self.inner["layers"]:
            x = block(x, attn_mask=None)
        return self.norm(x)


class Tokens(Encoder):
    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(images)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Skips, "Skips, which does not run to_tokens, inner.layers in their order, and then the rest"),
        (Between, "Between, which does not run"),
        (Backwards, "Backwards, which does not run"),
        (Masked, "blocks that are given more than their tokens"),
        (Tokens, r"expected one that gives a tensor \[N, outputs\]"),
    ],
)
def test_what_is_not_a_chain_is_refused(kind, message):
    with pytest.raises(BadInput, match=message):
        repq_deploy.quantize(make(kind), IMAGES)


def test_a_module_of_other_blocks_is_of_no_family():
    model = make()
    model.inner["layers"].append(nn.Identity())
    assert known_family(model) is None
    with pytest.raises(BadInput, match="model family Encoder is not supported; expected timm's"):
        repq_deploy.quantize(model, IMAGES)
