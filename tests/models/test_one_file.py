"""A family is one file: with no other change its models are quantized by every kind of step, exported and proven."""

from __future__ import annotations

import pytest
import torch

import repq_deploy
from repq_deploy.export.canonical import canonical_onnx
from repq_deploy.export.prove_export import compare_export
from repq_deploy.methods import Method
from repq_deploy.models import families
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means
from repq_deploy.rewrites.rotations import rotate_heads
from repq_deploy.steps import step
from tests.models import toy_family

EVERYTHING = (
    step("rotate"),
    step("center"),
    step("ranges", attention="head", weights=False),
    step("fold"),
    step("weights", ridge=1.0, rounding="gptq"),
)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> toy_family.TurningTransformer:
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, toy_family.FAMILY))
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
    return toy_family.TurningTransformer(**options).eval().requires_grad_(False)


def test_the_nearest_class_decides_the_family(model):
    assert families.find_family(model) is toy_family.FAMILY


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("method", ["repq", Method("everything", "log2", EVERYTHING)])
def test_its_codes_are_proven(model, bits, method):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    quantized = repq_deploy.quantize(model, images, bits=bits, method=method)
    agreement = compare_export(quantized, canonical_onnx(quantized, (3, 32, 32)), images)
    assert agreement.failing == ()
    assert len(agreement.sites) == 1 + 2 * 8 + 1
    assert (quantized(images) - model(images)).norm() < 0.5 * model(images).norm()


@torch.no_grad()
def test_rewrites_are_exact_where_positions_turn_q_and_k(model):
    """Rotations of q and k and shifts of k are left out, those of v are not."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected, before = model(images), model.blocks[0].attn.qkv.weight.clone()
    sites = families.find_sites(model)
    center_keys_and_values(model, sites, qkv_means(model, sites, images, batch=4))
    rotate_heads(model, sites, seed=0)
    assert (model(images) - expected).norm() / expected.norm() < 1e-5
    qkv = model.blocks[0].attn.qkv
    assert torch.equal(qkv.weight[:96], before[:96])
    assert (qkv.weight[96:] - before[96:]).norm() > 0.1 * before[96:].norm()
