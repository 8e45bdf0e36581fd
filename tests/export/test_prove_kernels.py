"""The proof by codes: equal graphs are equal at every site, ties are told from errors, and an error is named."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from repq_deploy.export.prove_kernels import compare_codes
from repq_deploy.export.prove_lowering import load_reference
from tests.conftest import exported, images_for, lower_for
from tests.export.passes.saturating import saturating


def optimized(model: onnx.ModelProto, folder) -> onnx.ModelProto:
    """What a session with nothing but its defaults runs, as it saves it itself."""
    onnx.save(model, folder / "engine.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "engine.onnx", options)
    return onnx.load(folder / "optimized.onnx")


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_a_plain_session_of_an_engine_for_any_cpu_has_the_canonical_codes(family, bits, tmp_path):
    canonical = exported(family, bits)
    engine, _ = lower_for(canonical, "onnxruntime", half=False, sums_in_16_bits=True)
    found = compare_codes(canonical, optimized(engine, tmp_path), images_for(family).numpy())
    assert found.holds
    assert found.unexplained <= 4
    assert found.sites == sum(node.op_type.endswith("QuantizeLinear") for node in canonical.graph.node)
    assert found.codes > 1000


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("softmax", ["tan", "adalog", "log2", "log2_max"])
def test_all_kinds_of_quantizers_are_compared(backend, softmax):
    canonical = exported("vit", "w4a4", softmax=softmax)
    lowered, _ = lower_for(canonical, backend, half=False, sums_in_16_bits=True)
    found = compare_codes(canonical, lowered, images_for("vit").numpy())
    assert found.holds
    assert found.sites == 18


def _scaled(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (tensor,) = [one for one in changed.graph.initializer if one.name == name]
    values = np.asarray(onnx.numpy_helper.to_array(tensor) * np.float32(factor))
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return changed


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_wrong_constant_shows_at_the_next_site_alone(factor):
    canonical = exported("vit", "w8a8")
    weight = next(name.name for name in canonical.graph.initializer if name.name == "blocks.1.mlp.fc1.weight/scale")
    found = compare_codes(canonical, _scaled(canonical, weight, factor), images_for("vit").numpy())
    assert not found.holds
    assert found.worst == "blocks.1.mlp.fc2.input"
    assert found.unexplained > 100


def test_logits_are_compared_too():
    canonical = exported("vit", "w8a8")
    found = compare_codes(canonical, _scaled(canonical, "head.weight/scale", 1.01), images_for("vit").numpy())
    assert (found.holds, found.worst, found.unexplained) == (False, "logits", 0)
    assert found.logits_relative_error == pytest.approx(0.02, rel=0.5)


def test_scales_moved_by_their_last_bit_move_ties_only():
    canonical = exported("vit", "w4a4")
    moved = onnx.ModelProto()
    moved.CopyFrom(canonical)
    for tensor in moved.graph.initializer:
        if tensor.name.endswith("input/scale"):
            values = np.asarray(np.nextafter(onnx.numpy_helper.to_array(tensor), np.float32(9), dtype=np.float32))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    assert compare_codes(canonical, moved, images_for("vit").numpy()).holds


def test_kernels_that_saturate_are_seen():
    canonical = exported("vit", "w8a8")
    lowered, _ = lower_for(canonical, "onnxruntime", half=False)
    images = images_for("vit").numpy()
    found = compare_codes(canonical, lowered, images, kernels=lambda graph: load_reference(saturating(graph)))
    assert not found.holds
    assert found.unexplained > 0


def test_a_graph_that_lost_its_codes_is_refused():
    canonical = exported("vit", "w8a8")
    graph = gs.import_onnx(canonical)
    for node in graph.nodes:
        for output in node.outputs:
            output.name = f"renamed/{output.name}" if output not in graph.outputs else output.name
    with pytest.raises(ValueError, match="no codes of 18 sites, first patch_embed"):
        compare_codes(canonical, gs.export_onnx(graph, do_type_check=False), images_for("vit").numpy())
