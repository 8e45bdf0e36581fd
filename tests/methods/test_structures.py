"""Every method on models that differ from a plain ViT in all that encoders differ in, and the search of their bits."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load

import repq_deploy
from repq_deploy.export.canonical import canonical_onnx
from repq_deploy.export.prove_export import compare_export
from repq_deploy.methods import METHODS, Method
from repq_deploy.models import families
from repq_deploy.models.legality import refusals
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means
from repq_deploy.rewrites.rotations import rotate_heads
from repq_deploy.search import sensitivity
from repq_deploy.search.relevance import relevance_shares
from repq_deploy.search.sensitivity import sensitivities
from repq_deploy.search.space import bit_widths, parse_choices, search_sites
from repq_deploy.steps import step
from tests.conftest import SPECS
from tests.models import varied_family
from tests.models.varied_family import VARIANTS, varied_model

#: All that a recipe may ask for beyond the methods.
EVERYTHING = Method(
    "everything",
    "log2",
    (
        step("rotate"),
        step("center"),
        step("ranges", post_norm="clipped", attention="head"),
        step("dual_clip", steps=3),
        step("fold"),
        step("reconstruct", epochs=16),
        step("bias_correction"),
    ),
)
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, varied_family.FAMILY))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "method",
    [
        EVERYTHING,
        *(pytest.param(name, marks=pytest.mark.slow if name == "repquant" else ()) for name in sorted(METHODS)),
    ],
)
def test_a_method_leaves_a_model_that_is_near_the_float_one(variant, method):
    model = varied_model(variant)
    expected = model(IMAGES)
    quantized = repq_deploy.quantize(model, IMAGES, bits="w6a6", method=method, softmax="uniform")
    outputs = quantized(IMAGES)
    assert (outputs - expected).norm() < 0.3 * expected.norm()
    used = METHODS.get(method, method) if isinstance(method, str) else method
    assert quantized.provenance.refused == refusals(quantized.sites, used.rewrites("uniform"))
    if variant == "cosine":
        assert quantized.quantizers()["blocks.0.attn.q"].bits == 8
        assert quantized.quantizers()["blocks.0.attn.v"].bits == 6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "method",
    [EVERYTHING, *(pytest.param(name, marks=pytest.mark.release) for name in sorted(METHODS))],
)
def test_its_codes_are_proven(variant, method):
    quantized = repq_deploy.quantize(varied_model(variant), IMAGES, bits="w4a4", method=method)
    agreement = compare_export(quantized, canonical_onnx(quantized, (3, 32, 32)), IMAGES)
    assert agreement.failing == ()
    assert len(agreement.sites) == len(quantized.sites.linears) + 4 * len(quantized.sites.attentions)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_rewrites_are_exact(variant):
    model = varied_model(variant)
    expected, sites = model(IMAGES), families.find_sites(model)
    center_keys_and_values(model, sites, qkv_means(model, sites, IMAGES, batch=4))
    rotate_heads(model, sites, seed=0)
    assert (model(IMAGES) - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_relevance_is_shared_by_all_sites(variant):
    model = varied_model(variant)
    sites = families.find_sites(model)
    shares = relevance_shares(model, sites, IMAGES)
    assert set(shares) == {site.name for site in (*sites.linears, *sites.attentions)}
    assert min(shares.values()) > 0
    assert sum(shares.values()) == pytest.approx(1)


def test_layers_that_read_one_norm_have_one_choice_of_bits():
    model = varied_model("turned")
    sites = families.find_sites(model)
    found = {
        site.name: site
        for site in search_sites(model, sites, IMAGES[:1], choices=parse_choices("4,8"), preset="deploy")
    }
    assert [name for name, _ in found["blocks.0.attn.qkv"].named] == ["blocks.0.attn.qkv", "blocks.0.attn.gate"]
    gated = found["blocks.0.mlp.fc1_g"]
    assert [name for name, _ in gated.named] == ["blocks.0.mlp.fc1_g", "blocks.0.mlp.fc1_x"]
    weights = [model.blocks[0].mlp.fc1_g.weight, model.blocks[0].mlp.fc1_x.weight]
    assert gated.parameters == sum(weight.numel() for weight in weights)
    assert gated.macs == gated.parameters * varied_family.TOKENS
    assert "blocks.0.mlp.fc1_x" not in found
    chosen = {name: site.choices[name == "blocks.0.mlp.fc1_g"] for name, site in found.items()}
    widths = bit_widths(tuple(found.values()), chosen, preset="deploy")
    assert str(widths) == "w4a4,blocks.0.mlp.fc1_g=w8a8,blocks.0.mlp.fc1_x=w8a8"
    quantized = repq_deploy.quantize(copy.deepcopy(model), IMAGES, bits=widths, method="repq")
    assert quantized.quantizers()["blocks.0.mlp.fc1_x.input"].bits == 8


def test_a_site_of_several_layers_is_measured_like_one(monkeypatch: pytest.MonkeyPatch):
    """The readers of one norm are quantized together, as a fold of one of them would spoil the others."""
    model = varied_model("turned")
    monkeypatch.setattr(sensitivity, "build_architecture", lambda spec: varied_family.VariedTransformer("turned"))
    sites = search_sites(model, families.find_sites(model), IMAGES[:1], choices=parse_choices("3,8"), preset="deploy")
    found = sensitivities(model, SPECS["vit"], IMAGES, sites, preset="deploy")
    norms = [site for site in sites if len(site.layers) > 1]
    assert len(norms) == 4
    for site in norms:
        few, many = (found[site.name, bits] for bits in site.choices)
        assert 0 < many < 0.02 * few


def test_q_and_k_of_cosine_attention_are_measured_at_8_bits():
    model = varied_model("cosine")
    sites = search_sites(model, families.find_sites(model), IMAGES[:1], choices=parse_choices("3,8"), preset="deploy")
    ranges = load(sensitivity.bundle(model, SPECS["vit"], IMAGES, sites, preset="deploy"))
    for operand in "qk":
        low, high = (ranges[f"range/blocks.0.attn.{operand}.{bits}.scale"] for bits in (3, 8))
        assert torch.equal(low, high)
    assert ranges["range/blocks.0.attn.v.3.scale"] > 5 * ranges["range/blocks.0.attn.v.8.scale"]
