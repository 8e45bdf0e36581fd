"""The float twin: the canonical file without quantizers, against NumPy on tiny graphs and PyTorch on models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from repq_deploy.engines.float_twin import float_twin
from repq_deploy.engines.source import read_source
from repq_deploy.export import names
from repq_deploy.export.onnx_session import open_session, reference_session
from repq_deploy.export.passes.base import PassError
from repq_deploy.export.weights_file import write_model, write_with_weights_file
from tests.conftest import exported, images_for, quantized_model
from tests.engines.graphs import tiny


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    return reference_session(model).run(None, {names.INPUT: images})[0]


def images(count: int = 3) -> np.ndarray:
    return (10 * np.random.default_rng(1).standard_normal((count, 3, 8, 8))).astype(np.float32)


def test_a_tiny_graph_becomes_a_product_of_floats():
    model = tiny(levels=7, weight_levels=7)
    before = model.SerializeToString(deterministic=True)
    twin = float_twin(model)
    assert model.SerializeToString(deterministic=True) == before
    assert [node.op_type for node in twin.graph.node] == ["Reshape", "MatMul", "Add"]
    found = arrays(model)
    weight = found["weight"].astype(np.float32) * found["weight_scale"]
    assert set(arrays(twin)) == {"shape", "weights", "bias"}
    np.testing.assert_array_equal(arrays(twin)["weights"], weight)
    x = images()  # far beyond what the Clip lets pass
    np.testing.assert_allclose(run(twin, x), x.reshape(3, -1) @ weight + found["bias"], rtol=1e-5, atol=1e-4)


def test_a_clip_of_the_model_stays():
    """ReLU6 before a quantizer whose steps do not fall on 6."""
    model = tiny()
    for name, value in (("low", 0.0), ("high", 6.02)):
        (tensor,) = (one for one in model.graph.initializer if one.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), name))
    twin = float_twin(model)
    assert [node.op_type for node in twin.graph.node] == ["Reshape", "Clip", "MatMul", "Add"]


def test_scales_along_the_axis_and_zero_points():
    model = tiny()
    (zero,) = (one for one in model.graph.initializer if one.name == "weight_zero_point")
    zero.CopyFrom(numpy_helper.from_array(np.arange(10, dtype=np.int8), zero.name))
    found = arrays(model)
    expected = (found["weight"].astype(np.float32) - np.arange(10)) * found["weight_scale"]
    np.testing.assert_allclose(arrays(float_twin(model))["weights"], expected, rtol=1e-6)


def test_a_quantizer_that_no_canonical_file_has_is_refused():
    model = tiny()
    (node,) = (one for one in model.graph.node if one.name == "head/dequantize")
    node.input[0] = "other"
    model.graph.node.insert(3, helper.make_node("Identity", ["codes"], ["other"], "between"))
    with pytest.raises(PassError, match="2 quantizers of activations are left, first head/quantize"):
        float_twin(model)


def check_against_pytorch(family: str, bits: str, softmax: str | None = None) -> None:
    """What PyTorch computes with the quantizers of activations off and those of weights on."""
    quantized, model = (make(family, bits, softmax=softmax) for make in (quantized_model, exported))
    twin = float_twin(model)
    onnx.checker.check_model(twin, full_check=True)
    assert not [node for node in twin.graph.node if node.domain or "Quantize" in node.op_type]
    assert list(twin.functions) == []
    assert [node.op_type for node in twin.graph.node].count("Softmax") == len(list(quantized.attentions()))
    assert [(one.domain, one.version) for one in twin.opset_import] == [("", 21)]
    for name, quantizer in quantized.quantizers().items():
        quantizer.enabled = name.endswith(".weight")
    x = images_for(family)
    with torch.no_grad():
        expected = quantized(x).numpy()
    for optimize in (False, True):
        session = open_session(twin.SerializeToString(), optimize=optimize)
        np.testing.assert_allclose(session.run(None, {names.INPUT: x.numpy()})[0], expected, rtol=1e-4, atol=1e-4)


def test_it_is_pytorchs_model_with_rounded_weights(each_family):
    check_against_pytorch(each_family, "w4a4")


@pytest.mark.parametrize(
    ("bits", "softmax"),
    [("w8a8", None), ("w4a4", "log2_max"), ("w4a4", "log_sqrt2"), ("w4a4", "adalog"), ("w4a4", "tan")],
)
def test_whatever_quantizes_the_probabilities(bits, softmax):
    check_against_pytorch("vit", bits, softmax)


def test_its_metadata_are_those_of_a_float_file(tmp_path):
    model = exported("vit", "w4a4")
    recorded = names.recorded(float_twin(model))
    assert (recorded[names.BITS], recorded[names.FLOAT_OF]) == ("", names.recorded(model)[names.BITS])
    assert recorded[names.SPEC] == names.recorded(model)[names.SPEC]
    assert not recorded.keys() & {names.DIGEST, names.METHOD, names.PRESET, names.SOFTMAX, names.DEFAULT_SESSION}
    write_model(float_twin(model), tmp_path / "twin.onnx")
    assert read_source(tmp_path / "twin.onnx").bits == ""
    again = float_twin(onnx.load(tmp_path / "twin.onnx"))
    assert again.SerializeToString(deterministic=True) == (tmp_path / "twin.onnx").read_bytes()


def test_weights_in_a_second_file(tmp_path):
    """A file over 2 GiB, as ``write_with_weights_file`` would write it; and a twin that becomes one."""
    expected = float_twin(tiny())
    whole = tiny()
    write_with_weights_file(whole, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="1 weights are in a second file"):
        float_twin(whole)
    twin = float_twin(onnx.load(tmp_path / "model.onnx", load_external_data=False), folder=tmp_path)
    np.testing.assert_array_equal(arrays(twin)["weights"], arrays(expected)["weights"])
    write_with_weights_file(twin, tmp_path / "twin.onnx")
    assert (tmp_path / "twin.onnx.data").stat().st_size >= 192 * 10 * 4
    session = reference_session(str(tmp_path / "twin.onnx"))
    np.testing.assert_array_equal(session.run(None, {names.INPUT: images()})[0], run(expected, images()))
