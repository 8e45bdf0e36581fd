"""Recipes of every building block, from the YAML file to equal codes in ONNX Runtime, lowered too."""

import numpy as np
import onnx
import pytest

from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import calibrate
from repq_deploy.export.canonical import canonical_onnx
from repq_deploy.export.lowering import exact_anywhere
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.prove_export import compare_export
from repq_deploy.export.table import site_table
from repq_deploy.methods import Method
from repq_deploy.quant.saved import load, save
from repq_deploy.recipes import load_recipe
from repq_deploy.steps import Step
from tests.conftest import SPECS, float_model, images_for, lower_for

RECIPES = {
    "adaround": "- ranges: {weights: false}\n- fold\n- weights: {rounding: adaround, ridge: 1.0}",
    "bias_correction": "- ranges\n- fold\n- bias_correction",
    "heads": "- ranges: {attention: head}\n- fold",
    "gelu": "- ranges: {gelu: adalog}\n- fold",
    "minmax": "- ranges: {find: minmax}\n- fold",
    "all": "- ranges: {attention: head, gelu: adalog, weights: false}\n- fold\n"
    "- weights: {rounding: adaround}\n- reconstruct: {unit: block, epochs: 1, batch: 2}\n- bias_correction",
}


def from_yaml(recipe: str, family: str, bits: str, folder):
    """The model that the recipe makes, and its canonical graph."""
    path = folder / "recipe.yaml"
    path.write_text(f"bits: {bits}\nmethod: mine\nsteps:\n" + RECIPES[recipe] + "\n")
    said = load_recipe(path)
    method = Method(said.method, "log_sqrt2", tuple(Step(name, options) for name, options in said.steps))
    widths = BitWidths.parse(said.bits)
    model = calibrate(float_model(family), SPECS[family], images_for(family), bits=widths, method=method)
    return model, canonical_onnx(model, tuple(images_for(family).shape[1:]))


def check(model, graph, family: str) -> None:
    agreement = compare_export(model, graph, images_for(family))
    activations = [name for name in model.quantizers() if not name.endswith(".weight")]
    assert sorted(site.site for site in agreement.sites) == sorted(activations)
    assert agreement.failing == ()
    assert all(site.levels <= 2**site.bits for site in agreement.sites)
    assert agreement.relative_error < 1e-5


@pytest.mark.parametrize("recipe", RECIPES)
def test_codes_agree_at_every_site(recipe, tmp_path):
    model, graph = from_yaml(recipe, "vit", "w4a4", tmp_path)
    check(model, graph, "vit")
    logarithmic = {row.name for row in site_table(graph) if row.kind == "adalog"}
    expected = {f"blocks.{index}.mlp.fc2.input" for index in range(2)} if recipe in ("gelu", "all") else set()
    assert logarithmic == expected


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_all_blocks_on_every_family_and_from_a_file(each_family, bits, tmp_path):
    model, graph = from_yaml("all", each_family, bits, tmp_path)
    check(model, graph, each_family)
    save(model, tmp_path / "m.safetensors")
    again = canonical_onnx(load(tmp_path / "m.safetensors"), tuple(images_for(each_family).shape[1:]))
    assert again.SerializeToString(deterministic=True) == graph.SerializeToString(deterministic=True)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt"])
def test_the_lowered_graph_computes_the_same(backend, tmp_path):
    """At 8 bits, where one tie is not amplified."""
    _, graph = from_yaml("all", "vit", "w8a8", tmp_path)
    lowered, _ = lower_for(graph, backend, half=False)
    onnx.checker.check_model(lowered, full_check=True)
    images = {"images": images_for("vit").numpy()}
    (expected,), (found,) = (reference_session(each).run(None, images) for each in (graph, exact_anywhere(lowered)))
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.05
