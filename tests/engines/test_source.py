"""Only a canonical ONNX file is taken, and what is wrong with another is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from repq_deploy.engines.source import read_source
from repq_deploy.errors import BadInput
from repq_deploy.export.digest import quantizers_digest
from repq_deploy.export.names import DIGEST
from repq_deploy.tasks import FEATURES
from tests.engines.graphs import CLASSES, SIDE, tiny


def test_reads_shapes_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny(bits="w4a4").SerializeToString())
    source = read_source(path)
    assert (source.image_shape, source.outputs, source.bits) == ((3, SIDE, SIDE), CLASSES, "w4a4")
    assert source.metadata["repq.model"] == "tiny"


def _rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"


def _fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def _free_height(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def _drop_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def _external_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[5].data_location = onnx.TensorProto.EXTERNAL


def _scale(name: str, value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = [one for one in model.graph.initializer if one.name == name]
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[-1] = value
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return change


def _drop_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_rename_input, "expected the one tensor 'images', found x"),
        (_fix_batch, "'images' must be float32 of rank 4 with a dynamic batch"),
        (_free_height, "'images' must be float32 of rank 4"),
        (_drop_shape, "'logits' must be float32 of rank 2"),
        (_external_weights, "keeps weights in other files than tiny.onnx.data"),
        (_drop_metadata, "not made by repq-export"),
        (_scale("scale", float("nan")), "scale of head/quantize: nan; expected a positive number"),
        (_scale("scale", float("inf")), "scale of head/quantize: inf"),
        (_scale("weight_scale", 0.0), "scale of head/weight: 0.0"),
        (_scale("weight_scale", -1.0), "scale of head/weight: -1.0"),
    ],
)
def test_another_graph_is_refused(tmp_path: Path, change: object, words: str) -> None:
    model = tiny()
    change(model)  # type: ignore[operator]
    path = tmp_path / "tiny.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match=words):
        read_source(path)


@pytest.mark.parametrize(
    ("name", "value"), [("scale", 0.0625), ("weight_scale", 0.5), ("weight", 1), ("zero_point", 3), ("bias", 7)]
)
def test_quantizers_that_were_changed_are_refused(tmp_path: Path, name: str, value: float) -> None:
    model = tiny()
    model.metadata_props.add(key=DIGEST, value=quantizers_digest(model))
    path = tmp_path / "tiny.onnx"
    path.write_bytes(model.SerializeToString())
    read_source(path)
    _scale(name, value)(model)
    path.write_bytes(model.SerializeToString())
    if name == "bias":  # no quantizer: tools may fold it
        read_source(path)
        return
    with pytest.raises(BadInput, match="are not those that repq-export wrote: damaged"):
        read_source(path)


def test_names_and_order_are_left_to_other_tools(tmp_path: Path) -> None:
    model = tiny()
    expected = quantizers_digest(model)
    for node in model.graph.node:
        node.name = f"renamed/{node.name}"
    nodes = [*model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert quantizers_digest(model) == expected


@pytest.mark.parametrize(
    ("content", "words"), [(b"hello, world", "not an ONNX file"), (b"", "not made by repq-export")]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        read_source(path)
    with pytest.raises(BadInput, match="no such file"):
        read_source(tmp_path / "other.onnx")


def test_a_task_is_read_and_an_unknown_one_is_refused(tmp_path: Path):
    model = tiny()
    entry = model.metadata_props.add(key="repq.task", value="features")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert read_source(tmp_path / "m.onnx").task is FEATURES
    entry.value = "detection"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match=r"repq\.task is 'detection', expected one of classification, features"):
        read_source(tmp_path / "m.onnx")
