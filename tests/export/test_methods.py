"""Every method on every family of models: equal codes in ONNX Runtime, and what ``best`` promises of its graph."""

import pytest

from repq_deploy.export.canonical import canonical_onnx
from repq_deploy.export.prove_export import compare_export
from repq_deploy.export.table import site_table
from repq_deploy.methods import METHODS
from tests.conftest import exported, images_for, quantized_model


@pytest.mark.parametrize("method", sorted(METHODS))
def test_codes_agree_at_every_site(method, each_family):
    model = quantized_model(each_family, preset="paper", method=method)
    graph = canonical_onnx(model, tuple(images_for(each_family).shape[1:]))
    agreement = compare_export(model, graph, images_for(each_family))
    assert agreement.failing == ()
    assert all(site.levels <= 2**site.bits for site in agreement.sites)
    assert agreement.relative_error < 1e-5


@pytest.mark.parametrize(
    ("method", "family", "bits"),
    [("best", "vit", "w4a4"), ("best-high", "vit", "w4a4"), ("best", "swin", "w3a3"), ("best", "vit", "w8a8")],
)
def test_best_has_no_scale_for_each_element(method, family, bits):
    """Its logarithms are of base 2: log-sqrt2 has a factor by parity, and a table a value for each code."""
    graph = exported(family, bits, preset="paper", method=method)
    rows = site_table(graph)
    assert {row.kind for row in rows} == {"weight", "activation"} | ({"log2"} if bits != "w8a8" else set())
    assert all(row.zero_point == 0 and row.channels == 1 for row in rows if row.kind != "weight")
