"""timm's Eva: prepared and rewritten, each variant computes what it did; exported, its codes are proven."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import apply_rot_embed_cat, resample_abs_pos_embed

import repq_deploy
from repq_deploy.bits import BitWidths
from repq_deploy.export.canonical import canonical_onnx
from repq_deploy.export.prove_export import compare_export
from repq_deploy.export.prove_kernels import compare_codes
from repq_deploy.methods import find_method
from repq_deploy.models.checkpoints import load_into
from repq_deploy.models.families import find_sites, stages
from repq_deploy.models.families.eva import FAMILY
from repq_deploy.models.parts.rope import Rope
from repq_deploy.models.sites import forward_through
from repq_deploy.models.taps import Features, tapped
from repq_deploy.models.zoo import ModelSpec, build_architecture
from repq_deploy.quant.layers import RotatedOutput
from repq_deploy.quant.model import wrap
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means
from repq_deploy.rewrites.rotations import rotate_heads, rotate_residual_stream
from repq_deploy.steps import step
from tests.conftest import lower_for
from tests.models.eva_variants import IMAGE, VARIANTS, eva, images

#: What writes to the stream by way of norms behind its branches, which cannot absorb a rotation.
UNROTATED = ("eva02_enormous",)
TURNED = sorted(set(VARIANTS) - {"eva", "eva02_enormous"})


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_prepared_and_in_stages_it_computes_the_same(variant):
    model = eva(variant)
    expected = model(images())
    assert torch.equal(forward_through(stages(model), images()), expected)
    sites = find_sites(model)
    torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forward_through(stages(model), images()), expected, rtol=1e-4, atol=1e-5)
    assert find_sites(model) == sites
    assert all(sum(stage.holds(site.name) for stage in stages(model)) == 1 for site in sites.linears)


@torch.no_grad()
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_rewrites_are_exact(variant):
    model = eva(variant)
    expected = model(images())
    sites = find_sites(model)
    center_keys_and_values(model, sites, qkv_means(model, sites, images(), batch=4))
    rotate_heads(model, sites, seed=0)
    before = copy.deepcopy(model)
    assert rotate_residual_stream(model, sites, seed=0) == (variant not in UNROTATED)
    torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)
    moved = (model.blocks[1].mlp.fc2.weight - before.blocks[1].mlp.fc2.weight).norm()
    assert (moved > 0.1) == (variant not in UNROTATED)


@pytest.mark.parametrize("variant", TURNED)
def test_our_tables_turn_as_timm_does(variant):
    """Neighbours become halves, so the products of q and k are compared, of all tokens with all."""
    model = eva(variant)
    model.eval()
    embedded = model.patch_embed(images(1))
    theirs = model._pos_embed(embedded)[1]
    theirs = theirs[1] if model.rope_mixed else theirs
    attention = model.blocks[1].attn
    size, prefix, half = attention.head_dim, attention.num_prefix_tokens, attention.rotate_half
    tokens = prefix + 6
    q, k = torch.randn(2, 3, 2, tokens, size, generator=torch.Generator().manual_seed(2))
    turned = [
        torch.cat([x[:, :, :prefix], apply_rot_embed_cat(x[:, :, prefix:], theirs, half=half)], dim=2) for x in (q, k)
    ]
    find_sites(model)
    rope = Rope(model._pos_embed(embedded)[1][1] if model.rope_mixed else model.rope.table, prefix=prefix)
    order = torch.arange(size) if half else torch.arange(size).unflatten(0, (-1, 2)).T.flatten()
    ours = [rope(x[..., order]) for x in (q, k)]
    torch.testing.assert_close(ours[0] @ ours[1].mT, turned[0] @ turned[1].mT, rtol=1e-5, atol=1e-5)
    assert prefix == 0 or torch.equal(ours[0][:, :, :prefix], q[:, :, :prefix, order])
    assert not torch.allclose(ours[0][:, :, prefix + 1 :], q[:, :, prefix + 1 :, order], atol=1e-2)


def test_sites_and_their_facts():
    sites = find_sites(eva("eva02"))
    facts = {site.name.removeprefix("blocks.1."): (site.role, site.norm) for site in sites.linears}
    assert facts["attn.qkv"] == ("qkv", "blocks.1.norm1")
    assert facts["mlp.fc1_g"] == facts["mlp.fc1_x"] == ("fc1", "blocks.1.norm2")
    assert facts["mlp.fc2"] == ("fc2", "blocks.1.mlp.norm")
    assert facts["head"] == ("head", None)


@pytest.mark.parametrize(
    ("variant", "between_qk", "between_v"),
    [
        ("eva", "nothing", "nothing"),
        ("dinov3", "rope", "nothing"),
        ("eva02_clip", "rope", "norm"),
        ("gated", "rope", "gate"),
        ("sapiens2", "norm", "nothing"),
    ],
)
def test_what_stands_in_attention_is_a_fact_of_its_site(variant, between_qk, between_v):
    for site in find_sites(eva(variant)).attentions:
        assert (site.between_qk, site.between_v) == (between_qk, between_v)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["dinov3", "mixed", "pe_core", "pe_lang", "eva02_enormous"])
def test_features_are_those_of_timm_before_and_after_the_rotation(variant):
    model = eva(variant)
    (expected,) = model.forward_intermediates(images(), indices=[0], intermediates_only=True)
    tapped(model, FAMILY, Features((0,), "maps"))
    sites = find_sites(model)
    torch.testing.assert_close(model(images())[0], expected, rtol=1e-4, atol=1e-5)
    assert rotate_residual_stream(model, sites, seed=0) == (variant != "eva02_enormous")
    torch.testing.assert_close(model(images())[0], expected, rtol=1e-4, atol=1e-5)


def test_a_pooling_reads_the_norm_behind_the_blocks():
    sites = find_sites(eva("pe_core"))
    assert sites.stream is not None
    assert (sites.stream.entry, sites.stream.embeddings) == ("norm_pre", ())
    assert sites.stream.readers[-1] == ("norm", ("attn_pool.kv",))
    assert next(site.name for site in sites.linears if site.role == "pool") == "attn_pool.kv"


def test_a_rotation_is_undone_before_the_largest_of_the_tokens():
    """The largest is no linear function of them: no reader behind it could take the rotation back."""
    model = timm.create_model("eva02_tiny_patch14_336", depth=1, embed_dim=24, num_heads=2, global_pool="max").eval()
    stream = find_sites(model).stream
    assert stream is not None
    assert stream.exits == ("norm",)


def test_a_gate_reads_what_attention_reads():
    (first, *_) = (site for site in find_sites(eva("gated")).linears if site.role == "gate")
    assert (first.name, first.norm) == ("blocks.0.attn.gate", "blocks.0.norm1")


def test_a_checkpoint_of_another_image_size_is_resized_as_timm_does_it():
    model, options = eva("eva02_tiny"), {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
    tensors = timm.create_model("eva02_tiny_patch14_336", img_size=32, **options).state_dict()
    notes = load_into(model, tensors, Path("x.pt"))
    assert notes == ("position embeddings resized from 32 to 24x16 pixels",)
    expected = resample_abs_pos_embed(tensors["pos_embed"], [3, 2], num_prefix_tokens=1)
    assert torch.equal(model.pos_embed.data, expected)


def test_another_image_size_has_tables_of_its_own():
    spec = ModelSpec("turned", "vit_small_patch16_dinov3", {"img_size": [96, 64], "depth": 1}, weights="random")
    quantized = wrap(build_architecture(spec), spec, BitWidths.parse("w8a8"), softmax="uniform")
    assert quantized.model.blocks[0].attn.rotate.cos.shape == (1 + 4 + 6 * 4, 64)


@pytest.mark.parametrize(
    "variant",
    [
        *("dinov3", "eva02", "gated", "mixed", "pe_core"),
        *(
            pytest.param(one, marks=pytest.mark.release)
            for one in sorted(set(VARIANTS) - {"dinov3", "eva02", "gated", "mixed", "pe_core"})
        ),
    ],
)
@pytest.mark.parametrize(
    ("bits", "method"),
    [
        ("w8a8", "repq"),
        *(
            pytest.param(bits, method, marks=pytest.mark.release)
            for bits in ("w8a8", "w6a6", "w4a4")
            for method in ("repq", "best")
            if (bits, method) != ("w8a8", "repq")
        ),
    ],
)
def test_codes_of_the_export_are_proven(variant, bits, method):
    model = eva(variant)
    expected = model(images())
    softmax = "uniform" if bits == "w8a8" else None
    quantized = repq_deploy.quantize(model, images(), bits=bits, method=method, softmax=softmax)
    canonical = canonical_onnx(quantized, (3, *IMAGE))
    agreement = compare_export(quantized, canonical, images())
    assert agreement.failing == ()
    if bits == "w8a8":
        assert (quantized(images()) - expected).norm() < 0.1 * expected.norm()
        lowered, _ = lower_for(canonical, "onnxruntime")
        kernels = Counter(node.op_type for node in lowered.graph.node)
        # Each linear, q, k and v apart, and two products of each attention; a pooling's two stay in float, and so does
        # the rotation of a stream that a norm begins.
        rotations = sum(isinstance(module, RotatedOutput) for module in quantized.model.modules())
        assert kernels["MatMulIntegerToFloat"] == len(quantized.sites.linears) + 2 * (2 + 2)
        assert rotations == 0 or method == "best"
        assert kernels["MatMul"] == rotations + (2 if variant == "pe_core" else 0)
        assert kernels["RotaryEmbedding"] == (4 if variant in TURNED else 0)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_rows_and_heads_with_scales_of_their_own_are_proven_behind_rope(backend):
    """Rotated q and k, a scale for each head, and probabilities of each row's largest, all at once, in ``best``."""
    quantized = repq_deploy.quantize(eva("eva02"), images(), bits="w4a4")
    canonical = canonical_onnx(quantized, (3, *IMAGE))
    assert compare_export(quantized, canonical, images()).failing == ()
    assert all(len(attention.logit_scale) == 2 for attention in quantized.attentions())
    lowered, _ = lower_for(canonical, backend, half=False, sums_in_16_bits=True)
    assert not {node.op_type for node in lowered.graph.node} & {"Log", "Softmax", "LogSoftmax"}
    assert compare_codes(canonical, lowered, images().numpy()).holds


def test_best_gives_heads_and_rows_their_own_where_it_rotates_online():
    """At few bits the same numbers as by name; at more, one scale and uniform probabilities, as everywhere."""
    best = find_method("best")
    ranges = step("ranges", find="mse", weights=False, attention="head")
    steps = tuple(ranges if each.name == "ranges" else each for each in best.steps)
    named = replace(best, softmax="log2_max", steps=steps)
    found, expected = (
        repq_deploy.quantize(eva("dinov3"), images(), bits="w3a3", method=one).model.state_dict()
        for one in (best, named)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    wide = repq_deploy.quantize(eva("dinov3"), images(), bits="w6a6")
    assert all(attention.logit_scale is None and not attention.relative for attention in wide.attentions())
