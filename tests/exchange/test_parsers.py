"""What the list of a TensorRT's parser lets through, and what it names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repq_deploy.errors import BadInput
from repq_deploy.exchange.parsers import check_for_parser, largest_opset, parse_version, supported_operators
from repq_deploy.export.opsets import at_opset
from tests.engines.graphs import tiny


@pytest.mark.parametrize(
    ("text", "version"), [("10.3", (10, 3)), ("10.3.0", (10, 3)), ("10.16.1.11", (10, 16)), (" 11 ", (11, 0))]
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["8.6", "9.3", "12.0", "jetpack6", "", "10.", "-10.3", "10.3\n; rm"])
def test_other_versions_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--tensorrt-version"):
        parse_version(text)


def test_opsets_and_operators_grow() -> None:
    assert [largest_opset(version) for version in ((10, 0), (10, 3), (10, 6), (10, 14), (10, 16), (11, 4))] == [
        *(20, 20, 22, 22, 24, 25)
    ]
    assert supported_operators((10, 3)) < supported_operators((10, 5)) < supported_operators((11, 0))
    assert {"Gelu", "LayerNormalization", "QuantizeLinear", "LogSoftmax"} <= supported_operators((10, 0))
    assert not {"RotaryEmbedding", "STFT"} & supported_operators((10, 3))
    assert "RotaryEmbedding" in supported_operators((10, 15))
    assert not {"MatMulInteger", "QLinearMatMul", "DynamicQuantizeLinear"} & supported_operators((11, 4))


def canonical() -> onnx.ModelProto:
    return at_opset(tiny(), 20)


def node(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(one for one in model.graph.node if one.op_type == op_type)


def constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def of_other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def of_integer_product(model: onnx.ModelProto) -> None:
    node(model, "MatMul").op_type = "MatMulInteger"


def of_own_domain(model: onnx.ModelProto) -> None:
    node(model, "MatMul").domain = "repq"


def with_zero_point(model: onnx.ModelProto) -> None:
    constant(model, "zero_point", np.array(3, np.int8))


def with_moved_codes(model: onnx.ModelProto) -> None:
    model.graph.node.insert(3, helper.make_node("Identity", ["codes"], ["moved"], "move"))
    model.graph.node[4].input[0] = "moved"


def with_byte_codes(model: onnx.ModelProto) -> None:
    constant(model, "weight", np.zeros((4, 10), np.uint8))


def with_computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Identity", ["scale"], ["computed"], "compute"))
    node(model, "QuantizeLinear").input[1] = "computed"


def with_a_cast_to_int8(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["bytes"], "cast", to=TensorProto.INT8))


def with_computed_axes(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Squeeze", ["logits", "axes"], ["less"], "squeeze"))


def with_two_outputs_of_a_norm(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("LayerNormalization", ["logits", "bias"], ["normed", "mean"], "norm"))


def with_double_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def test_a_canonical_graph_of_opset_20_is_taken_by_all() -> None:
    for version in ((10, 0), (10, 3), (11, 4)):
        check_for_parser(canonical(), version)


def test_bytes_may_come_in() -> None:
    model = canonical()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    check_for_parser(model, (10, 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_other_opset, "opset 21, and it reads up to 20"),
        (of_integer_product, "MatMulInteger 'head/matmul': not among the operators"),
        (of_own_domain, "MatMul 'head/matmul': not among the operators"),
        (with_zero_point, "QuantizeLinear 'head/quantize': its zero point is not 0"),
        (with_moved_codes, "QuantizeLinear 'head/quantize': something else than a DequantizeLinear reads it"),
        (with_byte_codes, "constant 'weight' is UINT8"),
        (with_computed_scale, "QuantizeLinear 'head/quantize': its scale is not constant"),
        (with_a_cast_to_int8, "Cast 'cast': casts to INT8"),
        (with_computed_axes, "Squeeze 'squeeze': its axes are not constant"),
        (with_two_outputs_of_a_norm, "LayerNormalization 'norm': only its first output"),
        (with_double_input, "input 'images' is DOUBLE"),
    ],
)
def test_what_it_does_not_take_is_named(change, words: str) -> None:
    model = canonical()
    change(model)
    with pytest.raises(BadInput, match=r"TensorRT 10\.3 would not parse the graph: ") as caught:
        check_for_parser(model, (10, 3))
    assert words in str(caught.value)
