"""Images as bytes: normalized to the last bit as ``Preprocess`` does it, whatever the layout, and in float32 always."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from repq_deploy.calib_data import Preprocess
from repq_deploy.errors import BadInput
from repq_deploy.export.onnx_session import open_session
from repq_deploy.export.passes.base import run_passes
from repq_deploy.export.passes.pixel_input import NORMALIZED, PixelInput, pixel_passes
from repq_deploy.export.passes.to_half import ToHalf
from repq_deploy.inputs import ImageInput

SIDE = 16
#: ImageNet's, and numbers that are no sums of a few powers of two.
PREPROCESS = Preprocess((SIDE, SIDE), 1.0, "center", "bicubic", (0.485, 0.456, 0.1), (0.229, 0.224, 1 / 3))
FORMS = [ImageInput((SIDE, SIDE), "uint8", layout) for layout in ("nhwc", "nchw")]


def graph_of(form: ImageInput, *then: object) -> onnx.ModelProto:
    """A graph that gives what it makes of its images."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["logits"])], "g", [images], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    found, _ = run_passes(model, [PixelInput(form, PREPROCESS.mean, PREPROCESS.std), *then])
    onnx.checker.check_model(found, full_check=True)
    return found


def every_byte() -> np.ndarray:
    """Two images [2, 16, 16, 3] in which each channel has all 256 values, in orders of their own."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(256, dtype=np.uint8), (6, 1)), axis=1)
    return np.ascontiguousarray(order.reshape(2, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("optimize", [False, True])
def test_every_value_of_every_channel_is_the_same_number(form, optimize):
    session = open_session(graph_of(form).SerializeToString(), optimize=optimize)
    (found,) = session.run(None, {"images": form.of_pixels(every_byte())})
    np.testing.assert_array_equal(found, PREPROCESS.normalized(every_byte()))


def test_numbers_become_the_bytes_that_they_came_from():
    np.testing.assert_array_equal(PREPROCESS.denormalized(PREPROCESS.normalized(every_byte())), every_byte())
    assert PREPROCESS.denormalized(np.full((3, 1, 1), 99, np.float32)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_bytes_are_cast_and_nothing_else(form):
    """TensorRT takes them for a Cast alone."""
    graph = graph_of(form).graph
    assert [node.op_type for node in graph.node if "images" in node.input] == ["Cast"]
    size = [value.dim_value for value in graph.input[0].type.tensor_type.shape.dim[1:]]
    assert (tuple(size), graph.input[0].type.tensor_type.elem_type) == (form.shape, TensorProto.UINT8)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_half_precision_rounds_what_was_normalized_in_float32(form):
    session = open_session(graph_of(form, ToHalf()).SerializeToString(), optimize=False)
    (found,) = session.run(None, {"images": form.of_pixels(every_byte())})
    expected = PREPROCESS.normalized(every_byte()).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert NORMALIZED in {name for node in graph_of(form, ToHalf()).graph.node for name in node.output}


def test_what_cannot_be_normalized_is_refused():
    assert pixel_passes(None, "") == pixel_passes(ImageInput((4, 4)), "") == []
    with pytest.raises(BadInput, match="preprocessing is not known"):
        pixel_passes(FORMS[0], "")
