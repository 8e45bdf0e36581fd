"""Swin Transformers of both versions: what is read of them, and that every rewrite and the export are exact.

Padded windows are the case that a fold into a norm could break: they hold tokens of zeros that no norm has seen.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path

import pytest
import timm
import torch

import repq_deploy
from repq_deploy.bits import BitWidths
from repq_deploy.calibration.resume import WorkFolder
from repq_deploy.calibration.run import Calibration
from repq_deploy.engines.api import BuildSettings, build_engine
from repq_deploy.engines.batching import Profile
from repq_deploy.errors import BadInput
from repq_deploy.export.canonical import canonical_onnx, write_canonical
from repq_deploy.export.prove_export import compare_export
from repq_deploy.export.table import site_table
from repq_deploy.hooks import hooks
from repq_deploy.models.families import find_sites, stages
from repq_deploy.models.sites import forward_through
from repq_deploy.quant.model import wrap
from repq_deploy.quant.quantizers import UniformQuantizer
from repq_deploy.rewrites.centering import center_keys_and_values, qkv_means
from repq_deploy.rewrites.rotations import rotate_heads
from repq_deploy.steps import step
from tests.models.windowed import MODELS, images_of, model_of, spec_of

PADDED = {"padded", "partitioned", "any size"}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("module", "count"), [("swin_transformer", 9), ("swin_transformer_v2", 12), ("swin_transformer_v2_cr", 3)]
)
def test_all_architectures_with_weights_are_read(module, count):
    names = set(timm.list_models(module=module)) & {name.partition(".")[0] for name in timm.list_pretrained()}
    assert len(names) == count
    with torch.device("meta"):
        for name in names:
            model = timm.create_model(name)
            sites = find_sites(model)
            blocks = sum(len(stage.blocks) for stage in getattr(model, "layers", getattr(model, "stages", ())))
            assert len(sites.attentions) == blocks
            assert len(sites.linears) == 4 * blocks + 3 + 2  # reductions, patch embedding and head
            assert not any(site.padded for site in sites.linears)


@pytest.mark.parametrize("name", MODELS)
def test_facts(name):
    sites = find_sites(model_of(name))
    assert {site.name for site in sites.linears if site.padded} == (
        {site.qkv for site in sites.attentions} if name in PADDED else set()
    )
    normed = {site.role for site in sites.linears if site.norm is not None}
    kind = name.split(",")[0]
    assert normed == {"v2": set(), "cr": {"reduction"}}.get(kind, {"qkv", "fc1", "reduction"})
    assert {site.between_qk for site in sites.attentions} == {"cosine" if kind in ("v2", "cr") else "nothing"}
    assert all(site.after_gelu == (site.role == "fc2") for site in sites.linears)
    assert sites.stream is None


@pytest.mark.parametrize("arguments", [{"img_size": 36}, {"strict_img_size": False}])
def test_padded_windows_of_cosine_attention_without_a_bias_of_keys_are_refused(arguments):
    model = timm.create_model(
        "swinv2_tiny_window8_256", **{"img_size": 64, "depths": (1,), "num_heads": (2,)} | arguments
    )
    with pytest.raises(BadInput, match="windows padded"):
        find_sites(model)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_rewrites_keep_the_model(name):
    model, images = model_of(name), images_of(name)
    expected, qkv = model(images), model.state_dict()[f"{find_sites(model).attentions[0].qkv}.weight"].clone()
    sites = find_sites(model)  # which has brought the model to the form that they speak of
    assert relative(model(images), expected) < 1e-6
    assert torch.equal(forward_through(stages(model), images), model(images))
    rotate_heads(model, sites, seed=0)
    center_keys_and_values(model, sites, qkv_means(model, sites, images, batch=4))
    assert relative(model(images), expected) < 1e-5
    turned = model.state_dict()[f"{sites.attentions[0].qkv}.weight"]
    assert all(relative(*parts) > 0.1 for parts in zip(turned.chunk(3), qkv.chunk(3), strict=True))


@functools.cache
def quantized(name: str, bits: str, method: str = "repq") -> repq_deploy.QuantizedModel:
    return repq_deploy.quantize(model_of(name), images_of(name), bits=bits, method=method)


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("name", ["padded", "partitioned"])
@torch.no_grad()
def test_the_fold_keeps_every_code_of_padded_tokens_too(name, bits):
    reference = model_of(name)
    model = wrap(copy.deepcopy(reference), spec_of(name), BitWidths.parse(bits), softmax="log_sqrt2")
    run = Calibration(model, reference, images_of(name), 0, lambda *_: None, WorkFolder(None))
    step("ranges", weights=False)(run)
    layers = {site.qkv: model.model.get_submodule(site.qkv) for site in model.sites.attentions}
    before, outputs = codes_of(layers, model, run.images)
    of_zero = {path: layer.input_quantizer.zero_point for path, layer in layers.items()}
    step("fold")(run)
    after, folded = codes_of(layers, model, run.images)
    for path, layer in layers.items():
        assert layer.shift.shape == (layer.weight.shape[1],)
        padded = before[path][-1, -1]  # the last token of the last window
        assert torch.equal(padded, of_zero[path].clamp(0, 2**layer.input_quantizer.bits - 1))
        assert torch.equal(padded, after[path][-1, -1])
        assert (before[path] != after[path]).float().mean() < 2e-3  # rounding ties, and what they change further on
    first = next(iter(layers))
    assert (before[first] != after[first]).float().mean() < 1e-4
    assert relative(folded, outputs) < 1e-2


def codes_of(layers, model, images):
    """The codes, 0 to 2^bits - 1, of the inputs of ``layers``, and the model's outputs."""
    found = {}

    def note(quantizer: UniformQuantizer, _inputs, values, path):
        found[path] = torch.round(values / quantizer.scale) + quantizer.zero_point

    with hooks(
        layer.input_quantizer.register_forward_hook(functools.partial(note, path=path))
        for path, layer in layers.items()
    ):
        return found, model(images)


def slow(*values: str) -> list:
    return [pytest.param(value, marks=pytest.mark.release) for value in values]


@pytest.mark.parametrize("bits", ["w4a4", *slow("w8a8", "w6a6")])
@pytest.mark.parametrize("method", ["repq", *slow("best")])
@pytest.mark.parametrize(
    "name", ["padded", "v2", "cr", *slow("partitioned", "any size", "v2, other windows", "cr, padded")]
)
def test_codes_are_proven_and_engines_pass(name, method, bits, tmp_path: Path):
    model, images = quantized(name, bits, method), images_of(name)
    graph = canonical_onnx(model, tuple(images.shape[1:]))
    assert compare_export(model, graph, images).failing == ()
    write_canonical(graph, tmp_path / "model.onnx")
    for backend in ("onnxruntime", "openvino"):
        built = build_engine(tmp_path / "model.onnx", backend, settings=BuildSettings(profile=Profile(1, 1, 5)))
        assert built.manifest.validation.verdict == "PASSED"


@pytest.mark.parametrize("name", ["v2", "cr"])
def test_cosine_attention_keeps_8_bits_of_q_and_k_and_every_record_says_so(name):
    model, images = quantized(name, "w4a4"), images_of(name)
    graph = canonical_onnx(model, tuple(images.shape[1:]))
    rows = {row.name: row.bits for row in site_table(graph)}
    agreement = compare_export(model, graph, images)
    for site in model.sites.attentions:
        asked = {f"{site.name}.{operand}": 8 if operand in "qk" else 4 for operand in "qkvp"}
        assert {path: model.quantizers()[path].bits for path in asked} == asked
        assert {path: rows[path] for path in asked} == asked
        assert {one.site: one.bits for one in agreement.sites if one.site in asked} == asked
    assert {bits for path, bits in rows.items() if path.endswith("qkv.input")} == {4}
    assert dataclasses.asdict(model.bits.default) == {"weight": 4, "activation": 4}
