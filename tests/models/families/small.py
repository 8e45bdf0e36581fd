"""Small models of timm's, of random weights that let every part count, and what must keep them as they are."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from repq_deploy.models.families import find_family, find_sites, stages
from repq_deploy.models.sites import Sites, forward_through
from repq_deploy.models.taps import Features, tapped
from repq_deploy.quant.layers import add_to_bias
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means
from repq_deploy.rewrites.rotations import rotate_heads, rotate_residual_stream

__all__ = ["check_features", "check_rewrites", "images_of", "small"]

SIZES: dict[str, Any] = {
    "img_size": (32, 48),  # not square, so that rows and columns cannot change places unseen
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}


def small(timm_id: str, **options: Any) -> nn.Module:
    """Layer norms of uneven channels, biases, LayerScales and tables far from zero."""
    model: nn.Module = timm.create_model(timm_id, **{**SIZES, **options}).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            normal = torch.randn(parameter.shape, generator=generator)
            scales = parameter.ndim == 1 and "bias" not in name
            weighs = name == "weight" and parameter.ndim > 1
            parameter.data = normal * (parameter[0].numel() ** -0.5 if weighs else 0.3) + scales
    return model.requires_grad_(False)


def images_of(model: nn.Module, count: int = 4) -> Tensor:
    sides = find_family(model).image_sides(model)[0]
    return torch.randn(count, 3, *sides, generator=torch.Generator().manual_seed(1))


def _check_equal(found: Tensor, expected: Tensor) -> None:
    error = float((found - expected).norm() / expected.norm())
    assert error < 2e-5, f"relative error {error}"


@torch.no_grad()
def check_rewrites(model: nn.Module, *, rotates: bool) -> Sites:
    """Stages, preparation and every rewrite of the float model keep its outputs, to rounding.

    Args:
        rotates: whether the residual stream is one that can be rotated.
    """
    images = images_of(model)
    expected = model(images)
    assert torch.equal(forward_through(stages(model), images), expected)
    sites = find_sites(model)
    _check_equal(model(images), expected)
    _check_equal(forward_through(stages(model), images), expected)
    assert find_sites(model) == sites
    for site in sites.linears:
        assert sum(stage.holds(site.name) for stage in stages(model)) == 1
    for site in sites.attentions:  # means that are there to be taken away
        qkv = model.get_submodule(site.qkv)
        add_to_bias(qkv, torch.randn(len(qkv.weight), generator=torch.Generator().manual_seed(2)))  # type: ignore
    expected = model(images)
    center_keys_and_values(model, sites, qkv_means(model, sites, images, batch=2))
    _check_equal(model(images), expected)
    rotate_heads(model, sites, seed=0)
    _check_equal(model(images), expected)
    before = model.blocks[1].mlp.fc2.weight.clone()  # type: ignore
    assert rotate_residual_stream(model, sites, seed=0) == rotates
    assert torch.equal(model.blocks[1].mlp.fc2.weight, before) != rotates  # type: ignore
    _check_equal(model(images), expected)
    return sites


@torch.no_grad()
def check_features(model: nn.Module) -> None:
    """Features are timm's, and stay so behind a rotation of the stream."""
    images = images_of(model)
    getter: Any = model
    expected = getter.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
    found = tapped(model, find_family(model), Features((0, 1), "maps"))
    sites = find_sites(found)
    for _ in range(2):
        for ours, theirs in zip(found(images), expected, strict=True):
            _check_equal(ours, theirs)
        rotate_residual_stream(found, sites, seed=0)
