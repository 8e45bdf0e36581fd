"""Reasons are given where their facts hold, and only there."""

from __future__ import annotations

import dataclasses

import pytest

from repq_deploy.engines.api import build_engine
from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.bench.reasons import Facts, facts_of, why_not_faster
from repq_deploy.engines.bench.times import FloatTimes
from repq_deploy.export.canonical import write_canonical
from tests.conftest import exported
from tests.engines.graphs import write_tiny

NOTHING = Facts(
    on_cpus=True,
    no_gain_where_saturated=None,
    saturates=False,
    unsaturated=False,
    activation_bits=8,
    quantizers=98,
    logarithms=0,
    curves=0,
    products=74,
    float_products=0,
    million_weights=22.0,
)
OPENVINO = backend_named("openvino").no_gain_where_saturated
EVEN = (FloatTimes(1, 10.0, 10.0), FloatTimes(8, 80.0, 80.0))


@pytest.mark.parametrize(
    ("facts", "what", "to_do"),
    [
        ({"saturates": True, "no_gain_where_saturated": OPENVINO}, "OpenVINO gains nothing", "--backend onnxruntime"),
        ({"saturates": True, "unsaturated": True}, "8-bit weights need a slower form", "--bits w7a8"),
        ({"saturates": True}, "this CPU has no VNNI: deit_s", "larger batches"),
        ({"unsaturated": True}, "built for any CPU", "--cpu native"),
        ({"float_products": 24}, "24 of its 74 products multiply floats", "--softmax float"),
        ({"logarithms": 12}, "12 of its 98 quantizers are on a logarithmic grid", "--softmax uniform"),
        ({"curves": 12}, "12 of its 98 quantizers are on a curve", "--softmax uniform"),
        ({"activation_bits": 4}, "activations of 4 bits run on the INT8 grid", "--bits w8a8"),
        ({"million_weights": 0.8}, "the model is small (0.8 million weights): 98 quantizers", "another --backend"),
        ({}, "none that is known of", "repq-bench"),
    ],
)
def test_each_fact_has_its_reason(facts, what, to_do):
    (reason,) = why_not_faster(dataclasses.replace(NOTHING, **facts), EVEN)
    assert what in reason.what
    assert to_do in reason.to_do


def test_a_larger_batch_that_gains_is_a_reason():
    small = dataclasses.replace(NOTHING, million_weights=0.8)
    (reason,) = why_not_faster(small, (EVEN[0], FloatTimes(8, 40.0, 61.2)))
    assert reason.what == (
        "batch 1 is too small for this model to gain: at batch 8 it is 1.53 times as fast as the float model"
    )


def test_no_cpu_is_blamed_for_a_gpu():
    (reason,) = why_not_faster(dataclasses.replace(NOTHING, on_cpus=False, saturates=True), EVEN[:1])
    assert reason.what.startswith("none that is known of")


def test_facts_of_a_vit(tmp_path):
    """Two blocks with log2 probabilities at w4a4, counted by hand."""
    model = exported("vit", "w4a4", softmax="log2")
    write_canonical(model, tmp_path / "vit.onnx")
    built = build_engine(tmp_path / "vit.onnx", "onnxruntime")
    facts = facts_of(model, built.manifest, backend_named("onnxruntime"))
    assert (facts.logarithms, facts.curves, facts.activation_bits) == (2, 0, 4)
    assert facts.products == 1 + 2 * (4 + 2) + 1  # patches, each block's linears and two products, head
    assert facts.float_products == 0
    assert facts.quantizers == 1 + 2 * (4 + 4) + 1  # patches, inputs of linears with q, k, v and probabilities, head
    width, patch = 48, 3 * 8 * 8
    assert facts.million_weights * 1e6 == pytest.approx(patch * width + 2 * 12 * width * width + 5 * width)
    # The patch embedding and the head alone have 8 bits: in so small a model more than a tenth of the products.
    for cpu, unsaturated in (("any", True), ("vnni", False)):
        one = dataclasses.replace(built.manifest, cpu=cpu)
        assert facts_of(model, one, backend_named("onnxruntime")).unsaturated is unsaturated


def test_facts_of_float_attention_and_of_files_for_any_cpu(tmp_path):
    model = exported("vit", "w8a8", softmax="float")
    write_canonical(model, tmp_path / "vit.onnx")
    built = build_engine(tmp_path / "vit.onnx", "onnxruntime")
    any_cpu = dataclasses.replace(built.manifest, cpu="any")
    facts = facts_of(model, any_cpu, backend_named("onnxruntime"))
    assert (facts.float_products, facts.unsaturated, facts.activation_bits) == (4, True, 8)
    assert not facts_of(model, dataclasses.replace(any_cpu, cpu="vnni"), backend_named("onnxruntime")).unsaturated


def test_facts_of_a_tiny_graph(tmp_path):
    source = write_tiny(tmp_path)
    built = build_engine(source.path, "onnxruntime")
    facts = facts_of(source.model, built.manifest, backend_named("onnxruntime"))
    assert (facts.products, facts.quantizers, facts.million_weights) == (1, 1, 192 * 10 / 1e6)
